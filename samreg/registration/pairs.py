"""Pairs of images to register in one run, and the csv that lists them."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from samreg.errors import InputError
from samreg.spatial.io_images import find_images
from samreg.spatial.tables import read_table
from samreg.steps import find_inputs, require_folder_names

#: Names that a pair cannot have, since its folder lies beside these.
EMBEDDINGS, SUMMARY = "embeddings", "summary.csv"

_IMAGES = ("fixed", "moving")
_MEASURED = ("landmarks", "labels")
#: What of a pair is no file.
TEXTS = ("name", "fixed_series", "moving_series")


@dataclass(frozen=True)
class RegistrationPair:
    """Two images to register, with what restricts and what measures the registration.

    Parameters
    ----------
    name
        Of the pair; its results' folder.
    fixed, moving
        Image files or DICOM folders.
    fixed_mask, moving_mask
        Where to look, non-zero voxels.
    fixed_landmarks, moving_landmarks
        Points of both images, paired by name, at which errors are measured.
    fixed_labels, moving_labels
        Label maps of both images, whose overlap is measured.
    fixed_series, moving_series
        Which series of a DICOM folder to take, as :func:`samreg.read_image` does.

    Raises
    ------
    InputError
        When the name cannot be a folder's, or only one of the images has landmarks or labels.

    Examples
    --------
    >>> pair = RegistrationPair("ANNA", Path("a.nii.gz"), Path("b.nii.gz"), fixed_mask=Path("a_body.nii.gz"))
    >>> [path.name for path in pair.files]
    ['a.nii.gz', 'b.nii.gz', 'a_body.nii.gz']
    """

    name: str
    fixed: Path
    moving: Path
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_landmarks: Path | None = None
    moving_landmarks: Path | None = None
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_series: str | None = None
    moving_series: str | None = None

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..", EMBEDDINGS, SUMMARY) or set(self.name) & set("/\\\0"):
            raise InputError(
                f"the name {self.name!r} of a pair cannot be its folder's; choose another, without / and \\"
            )
        for kind in _MEASURED:
            given = [role for role in _IMAGES if getattr(self, f"{role}_{kind}") is not None]
            if len(given) == 1:
                raise InputError(
                    f"the pair {self.name!r} has {kind} of its {given[0]} image alone; give both, or neither"
                )

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the pair names."""
        paths = (getattr(self, field.name) for field in fields(self) if field.name not in TEXTS)
        return tuple(path for path in paths if path is not None)


def read_registration_pairs(path: str | os.PathLike[str]) -> tuple[RegistrationPair, ...]:
    r"""Read a csv of pairs to register.

    Parameters
    ----------
    path
        With the columns fixed and moving, and optionally name, fixed_mask, moving_mask, fixed_landmarks,
        moving_landmarks, fixed_labels, moving_labels, fixed_series and moving_series; empty cells are left out. Files
        are relative to the csv. Pairs without a name are called pair-001, pair-002, ... by their rows.

    Raises
    ------
    InputError
        When the file, a column or a cell is missing, a column is unknown, or a name occurs twice.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "pairs.csv")
    >>> _ = path.write_text("fixed,moving,fixed_mask\na.nii.gz,b.nii.gz,\nb.nii.gz,a.nii.gz,b_body.nii.gz\n")
    >>> [(pair.name, pair.moving.name, pair.fixed_mask is None) for pair in read_registration_pairs(path)]
    [('pair-001', 'b.nii.gz', True), ('pair-002', 'a.nii.gz', False)]
    """
    columns = [field.name for field in fields(RegistrationPair)]
    table = read_table(path, "list of pairs", needed=_IMAGES, known=columns)
    pairs = []
    for number, (row, cells) in enumerate(zip(table.rows, table.records(), strict=True), start=1):
        given = {key: text for key, cell in cells.items() if key != "name" and (text := cell.strip())}
        if missing := [key for key in _IMAGES if key not in given]:
            raise InputError(
                f"{table.path}, line {row.line}: no {' and no '.join(missing)} image; give a file for each"
            )
        name = cells.get("name", "").strip() or f"pair-{number:03d}"
        try:
            columns_given: dict[str, Any] = {
                key: text if key in TEXTS else table.path.parent / text for key, text in given.items()
            }
            pairs.append(RegistrationPair(name, **columns_given))
        except InputError as error:
            raise InputError(f"{table.path}, line {row.line}: {error}") from None
    if not pairs:
        raise InputError(f"{table.path}: give at least one pair")
    require_folder_names([pair.name for pair in pairs], f"{table.path}: ")
    return tuple(pairs)


def pairs_in_folder(
    folder: str | os.PathLike[str],
    *,
    fixed: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> tuple[RegistrationPair, ...]:
    """Return a pair for every image of a folder with one fixed image, or for every two images of it.

    Parameters
    ----------
    folder
        Images, DICOM folders, or both.
    fixed
        The image that all others are brought to; pairs are named after the others. Unless given, all images are paired
        with each other once, the one whose name comes first being fixed, and pairs are called FIXED--MOVING.
    out
        Folder of the results, which is no image where it lies within ``folder``.

    Raises
    ------
    InputError
        When the folder is missing, or holds too few images.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in "abc":
    ...     (folder / f"{name}.nii.gz").touch()
    >>> [pair.name for pair in pairs_in_folder(folder)]
    ['a--b', 'a--c', 'b--c']
    >>> [pair.name for pair in pairs_in_folder(folder, fixed=folder / "b.nii.gz")]
    ['a', 'c']
    """
    images = find_inputs(Path(folder, ".samreg") if out is None else Path(out), folder)
    if fixed is None:
        named = itertools.combinations(sorted(images.items()), 2)
        pairs = [RegistrationPair(f"{a}--{b}", first, second) for (a, first), (b, second) in named]
    else:
        find_images(fixed)
        target = Path(fixed)
        pairs = [
            RegistrationPair(name, target, path) for name, path in images.items() if path.resolve() != target.resolve()
        ]
    if not pairs:
        raise InputError(f"{folder} holds {len(images)} image, and none to register it to; give a folder of several")
    return tuple(pairs)
