"""The phantom population as a data set: no download, exact landmarks."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from samreg.benchmark.datasets.base import Case, DataSet, sha256
from samreg.errors import require_number
from samreg.phantoms import Phantom, anatomy, dicom, followup, make_phantom

_PAIRS = 20
_MIN_SPACING_MM, _MAX_SPACING_MM = 0.5, 20.0
_OTHER_CODE = {Path(followup.__file__), Path(dicom.__file__)}
_CODE = sorted(set(Path(anatomy.__file__).parent.glob("*.py")) - _OTHER_CODE)  # what the images depend on


def phantoms(pairs: int = _PAIRS, *, spacing: float | None = None) -> DataSet:
    """Return pairs of synthetic chests, no subject in more than one of them.

    Parameters
    ----------
    pairs
        How many.
    spacing
        Voxel size, mm; each scanner's own unless given.

    Raises
    ------
    InputError
        For fewer than one pair, or a voxel size that no phantom has.

    Examples
    --------
    >>> from samreg.benchmark.datasets.phantoms import phantoms
    >>> phantoms(2, spacing=8).pairs
    (('phantom-000', 'phantom-001'), ('phantom-002', 'phantom-003'))
    """
    require_number("pairs of phantoms", pairs, minimum=1, integer=True)
    if spacing is not None:
        require_number("spacing of phantoms", spacing, minimum=_MIN_SPACING_MM, maximum=_MAX_SPACING_MM, unit="mm")
    cases = [_case(subject, spacing) for subject in range(2 * pairs)]
    return DataSet(
        name="phantom",
        spec=f"phantom:{pairs}" + ("" if spacing is None else f":{spacing:g}"),
        cases={case.name: case for case in cases},
        pairs=tuple((a.name, b.name) for a, b in zip(cases[::2], cases[1::2], strict=True)),
        licence="synthetic",
    )


def _case(subject: int, spacing: float | None) -> Case:
    part = partial(_part, subject, spacing)
    return Case(
        name=f"phantom-{subject:03d}",
        source={"subject": subject, "spacing": spacing, "code": [sha256(path) for path in _CODE]},
        image=partial(part, "image"),
        landmarks=partial(part, "landmarks"),
        labels=partial(part, "labels"),
        pictures=True,
    )


def _part(subject: int, spacing: float | None, name: str) -> Any:
    """Return an attribute of a phantom."""
    return getattr(_make(subject, spacing), name)


@lru_cache(maxsize=2)
def _make(subject: int, spacing: float | None) -> Phantom:
    return make_phantom(subject, spacing=spacing)
