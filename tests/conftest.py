"""What every test shares."""

from __future__ import annotations

import locale
import os
from collections import OrderedDict
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, before numpy and torch count the cores
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

# a busy machine is no reason to fail, and a failure must come back
settings.register_profile(
    "samreg", deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("samreg")


def _no_hidden_part(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a skip, and an expected failure, a failure under CI=true: neither may hide a part of samreg."""
    if os.environ.get("CI") != "true" or not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"skipped or expected to fail under CI=true, where every part must pass: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _no_hidden_part(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _no_hidden_part(report)
    return report


@pytest.fixture(autouse=True)
def _locale_as_it_was():
    """Undo what GDCM leaves behind when a test writes DICOM: the locale "C", in which later tests would read ASCII."""
    before = locale.setlocale(locale.LC_CTYPE)
    yield
    locale.setlocale(locale.LC_CTYPE, before)


_KEPT_EMBEDDINGS = 10


@pytest.fixture(scope="module")
def embeddings_kept():
    """Embed each image once for all tests of a module, which then test what is made of embeddings."""
    from samreg.embedding.embed import content_hash
    from samreg.embedding.mind import MindModel
    from samreg.embedding.models import NetworkModel

    kept = OrderedDict()

    def once(embedded):
        def embed(self, image, mask, *options):  # the last of the options is who is told of progress
            key = (self.identity, content_hash(image, mask), *map(str, options[:-1]))
            kept[key] = kept.pop(key, None) or embedded(self, image, mask, *options)
            while len(kept) > _KEPT_EMBEDDINGS:
                kept.popitem(last=False)
            return replace(kept[key])  # an object of its own, as what is known of it is kept with it

        return embed

    with pytest.MonkeyPatch.context() as patch:
        for model in (NetworkModel, MindModel):
            patch.setattr(model, "_embedded", once(model._embedded))
        yield
