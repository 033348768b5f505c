"""Pairs of visits, and the csv that lists them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from samreg.errors import InputError
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.tables import read_table
from samreg.steps import require_folder_names
from samreg.tracking.lesions import Lesions, as_lesions

_REQUIRED_COLUMNS = ("baseline", "followup", "lesions")
_COLUMNS = ("name", *_REQUIRED_COLUMNS, "truth")


@dataclass(frozen=True, eq=False)
class VoxelLesions:
    """N lesions by voxels of their image, whatever its grid.

    Parameters
    ----------
    index
        (N, 3) centres, voxel indices from 0, order (x, y, z).
    radii
        (N,) in voxels of the slice; NaN where unknown.
    """

    index: FloatArray
    radii: FloatArray

    def on(self, grid: Grid) -> Lesions:
        """Return them in the world of their image's grid, named 1, 2, ..."""
        return as_lesions(grid.index_to_world(self.index), grid, radii=self.radii * grid.spacing[0])


@dataclass(frozen=True, eq=False)
class LesionPair:
    """Two visits of one person, and the lesions of the first.

    Parameters
    ----------
    name
        Of the pair; its results' folder.
    baseline, followup
        The scans' files.
    lesions
        In the baseline: a file of points or a label map, or voxels.
    truth
        The same lesions in the follow-up, by the same names; None where they are unknown.
    """

    name: str
    baseline: Path
    followup: Path
    lesions: Path | VoxelLesions
    truth: Path | VoxelLesions | None = None


def read_pairs(path: str | os.PathLike[str]) -> tuple[LesionPair, ...]:
    r"""Read a csv of pairs: columns baseline, followup, lesions, optionally name and truth; files relative to the csv.

    Raises
    ------
    InputError
        When the file, a column or a cell is missing, a column is unknown, or a name occurs twice.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "pairs.csv")
    >>> _ = path.write_text("name,baseline,followup,lesions\nANNA,a.nii.gz,b.nii.gz,lesions.csv\n")
    >>> (pair,) = read_pairs(path)
    >>> pair.name, pair.followup.name, pair.truth
    ('ANNA', 'b.nii.gz', None)
    """
    table = read_table(path, "list of pairs", needed=_REQUIRED_COLUMNS, known=_COLUMNS)
    pairs = []
    for i, (line, row) in enumerate(zip(table.rows, table.records(), strict=True), start=1):
        empty = [key for key in _REQUIRED_COLUMNS if not row[key].strip()]
        if empty:
            raise InputError(f"{table.path}, line {line.line}: no {', '.join(empty)}; give a file for each")
        files = {
            key: table.path.parent / row[key].strip()
            for key in (*_REQUIRED_COLUMNS, "truth")
            if row.get(key, "").strip()
        }
        pairs.append(LesionPair(row.get("name", "").strip() or f"pair-{i:03d}", **files))
    if not pairs:
        raise InputError(f"{table.path}: give at least one pair")
    require_names(pairs, f"{table.path}: ")
    return tuple(pairs)


def require_names(pairs: Sequence[LesionPair], where: str = "") -> None:
    """Raise :class:`InputError` when two pairs would share a folder, or a name cannot be a folder's.

    Parameters
    ----------
    pairs
        All of a run.
    where
        How the message begins.
    """
    names = [pair.name for pair in pairs]
    if unusable := [name for name in names if name in (".", "..") or set(name) & set("/\\\0")]:
        raise InputError(f"{where}{unusable[:5]} cannot name a folder; leave out / and \\")
    require_folder_names(names, where)
