"""What every test shares."""

from __future__ import annotations

import functools
import locale
import os
from collections import OrderedDict
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import typer.main
import typer.testing
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


@pytest.fixture(scope="session", autouse=True)
def _commands_built_once():
    """Build samreg's commands once, as one process of it does: typer's runner takes 0.1 s to do so for each call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.main.get_command))
        yield


_KEPT_EMBEDDINGS = 10


@pytest.fixture(scope="module")
def embeddings_kept():
    """Embed each image once for all tests of a module, which then test what is made of embeddings.

    What landmarks and bones an image shows is found once as well; global vectors alone, too.
    """
    from samreg.embedding.api import content_hash
    from samreg.embedding.mind import MindModel
    from samreg.embedding.models import NetworkModel
    from samreg.landmarks.placement import _PLACED
    from samreg.landmarks.skeleton import _SURVEYS

    def once(method):
        kept = OrderedDict()

        def embed(self, image, *arguments, **options):
            mask = options.get("mask", arguments[0] if arguments else None)
            others = (*arguments[1:], options.get("device"))
            devices = [str(value) for value in others if value is not None and not callable(value)]  # all but progress
            key = (self.identity, content_hash(image, mask), *devices)
            kept[key] = known = kept.pop(key, None) or method(self, image, *arguments, **options)
            while len(kept) > _KEPT_EMBEDDINGS:
                kept.popitem(last=False)
            if known is None:
                return None
            copy = replace(known)  # an object of its own, as what is known of it is kept with it
            for found in (_PLACED, _SURVEYS):
                found[copy] = found.setdefault(known, WeakKeyDictionary())
            return copy

        return embed

    with pytest.MonkeyPatch.context() as patch:
        for model in (NetworkModel, MindModel):
            patch.setattr(model, "_embedded", once(model._embedded))
        patch.setattr(NetworkModel, "embed_globally", once(NetworkModel.embed_globally))
        yield
