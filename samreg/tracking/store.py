"""The folder of tracked lesions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.spatial.files import replaced_files, require_replaceable, require_writable
from samreg.spatial.grid import FloatArray
from samreg.spatial.io_images import write_image
from samreg.spatial.io_points import write_points
from samreg.steps import write_table
from samreg.tracking.page import write_lesion_page

if TYPE_CHECKING:
    from samreg.tracking.result import LesionTracks

_SUMMARY = "lesions.json"
_TABLE, _PAGE, _LABELS = "lesions.csv", "lesions.html", "followup_lesions.nii.gz"
_POINTS = ("followup.mrk.json", "followup.csv")


def require_folder(folder: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Raise :class:`InputError` where a result would replace what is read, or a user's own file, in its folder."""
    require_writable(folder)
    require_replaceable(folder, (_SUMMARY, _TABLE, _PAGE, _LABELS, *_POINTS), mark=_SUMMARY, inputs=inputs)


def save(tracks: LesionTracks, folder: str | os.PathLike[str]) -> Path:
    """Write a result to a folder, all files or none; see :meth:`samreg.LesionTracks.save`."""
    with replaced_files(folder, summary=_SUMMARY, others=(_TABLE, _PAGE, _LABELS, *_POINTS)) as staging:
        rows = [lesion.row() for lesion in tracks.lesions]
        if tracks:
            write_table(staging / _TABLE, list(rows[0]), (list(row.values()) for row in rows))
            for name in _POINTS:
                write_points(tracks.to_points(), staging / name, columns=_expected_errors(rows))
            labels = tracks.labels()
            if labels is not None:
                write_image(labels, staging / _LABELS)
            write_lesion_page(tracks, staging / _PAGE)
        text = json.dumps(_summary(tracks, rows), indent=2) + "\n"
        (staging / _SUMMARY).write_text(text, encoding="utf-8")
    return Path(folder)


def _expected_errors(rows: list[dict[str, Any]]) -> dict[str, FloatArray]:
    """Return the expected errors as a further column, where the rows have them."""
    key = "expected_error_mm"
    return {key: np.array([row[key] for row in rows])} if all(key in row for row in rows) else {}


def _summary(tracks: LesionTracks, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ok": bool(tracks),
        "reason": tracks.reason,
        "baseline": tracks.baseline.name,
        "followup": tracks.followup.name,
        "frame": "LPS mm",
        "notes": list(tracks.notes),
        "lesions": rows,
    }
