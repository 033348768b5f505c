"""Data sets behind one interface: cases, ordered pairs, images, landmarks, labels and masks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from samreg.benchmark.datasets.base import Case, DataSet, manifest
from samreg.benchmark.datasets.dirlab import dirlab_4dct, dirlab_copd
from samreg.benchmark.datasets.folders import LANDMARKS, MANIFEST, samreg_folder
from samreg.benchmark.datasets.phantoms import phantoms
from samreg.benchmark.datasets.public import elastix_lung, learn2reg
from samreg.errors import InputError

__all__ = ["Case", "DataSet", "load_dataset"]

# kind: (reader, what its folder holds)
_KINDS: dict[str, tuple[Callable[[Path], DataSet], tuple[str, ...]]] = {
    "samreg": (samreg_folder, (MANIFEST, *LANDMARKS)),
    "learn2reg": (learn2reg, ("*_dataset.json",)),
    "elastix-lung": (elastix_lung, ("3DCT_lung_baseline.*",)),
    "dirlab-4dct": (dirlab_4dct, ("Case*Pack", "Case*Deploy")),
    "dirlab-copd": (dirlab_copd, ("copd[0-9]*",)),
}


def load_dataset(spec: str | os.PathLike[str] = "phantom") -> DataSet:
    """Return a data set.

    Parameters
    ----------
    spec
        "phantom", "phantom:PAIRS" or "phantom:PAIRS:SPACING"; a folder, whose kind is seen from what it holds; or
        "KIND:FOLDER" with KIND one of samreg, learn2reg, elastix-lung, dirlab-4dct, dirlab-copd.

    Raises
    ------
    InputError
        When there is no such data set; the message says where to get it and where to put it.

    Examples
    --------
    >>> from samreg.benchmark import load_dataset
    >>> load_dataset("phantom:2:8").pairs
    (('phantom-000', 'phantom-001'), ('phantom-002', 'phantom-003'))
    """
    kind, _, rest = os.fspath(spec).partition(":")
    if kind == "phantom":
        return _phantoms(rest)
    if kind not in _KINDS or Path(spec).exists():
        kind, rest = "", os.fspath(spec)
    if kind and not rest:
        raise InputError(f"{kind} needs its folder, as {kind}:FOLDER. {_obtain(kind)}")
    folder = Path(rest).expanduser().absolute()
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}. {_obtain(kind)}")
    kinds = [kind] if kind else [k for k, (_, signs) in _KINDS.items() if any(any(folder.glob(s)) for s in signs)]
    if len(kinds) != 1:
        seen = f"could be {' or '.join(kinds)}; say KIND:FOLDER" if kinds else f"holds no data set. {_obtain('')}"
        raise InputError(f"{folder} {seen}")
    return _KINDS[kinds[0]][0](folder)


def _phantoms(text: str) -> DataSet:
    pairs, _, spacing = text.partition(":")
    try:
        return phantoms(*([int(pairs)] if pairs else []), spacing=float(spacing) if spacing else None)
    except ValueError as error:
        raise InputError(f"phantom:{text} must read phantom:PAIRS or phantom:PAIRS:SPACING, {error}") from None


def _obtain(kind: str) -> str:
    if kind:
        return str(manifest("chest-ct" if kind == "samreg" else kind)["obtain"])
    known = ", ".join(_KINDS)
    return f"Kinds of data sets are phantom (nothing to download), {known}; docs/benchmark says where to get each"
