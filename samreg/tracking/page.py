"""The page on tracked lesions: a table, and both visits of each lesion side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samreg.report.kit import PICTURE_OUTLINE, PICTURE_TEXT, Picture, Table, dark_figure, png, write_page
from samreg.report.pictures import draw_slice
from samreg.report.views import grey, views_of, window
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from samreg.tracking.result import LesionTracks, TrackedLesion
    from samreg.tracking.size import Extent

_PIXEL_MM = 0.75
_MAX_HALF_PIXELS = 100
_MIN_HALF_WIDTH_MM = 35.0  # of a crop around a small lesion
_EXPECTED = "error at most, mm"  # in four of five places
_COLUMNS = ("lesion", "x", "y", "z", "reliability", _EXPECTED, "before, mm", "after, mm", "change")
_MIN_RELIABILITY = 0.5  # lesions of less are marked


def write_lesion_page(tracks: LesionTracks, path: str | os.PathLike[str]) -> Path:
    """Write one self-contained HTML page; lesions to look at are marked.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    return write_page(
        path,
        "lesions.html",
        title=f"Lesions of {Path(tracks.baseline.name).name or 'the baseline'} followed up",
        followup=Path(tracks.followup.name).name or "the follow-up",
        notes=tracks.notes,
        table=_table(tracks.lesions),
        lesions=[
            {
                "name": lesion.name,
                "remarks": _remarks(lesion),
                "picture": Picture(png(draw_lesion(tracks, lesion)), f"lesion {lesion.name} at both visits"),
            }
            for lesion in tracks.lesions
        ],
    )


def draw_lesion(tracks: LesionTracks, lesion: TrackedLesion) -> Figure:
    """Draw a lesion at baseline (above) and follow-up (below): axial, coronal, sagittal, outlined where measured."""
    largest = max((extent.diameter for extent in (lesion.before, lesion.after) if extent is not None), default=0.0)
    half_width = max(_MIN_HALF_WIDTH_MM, 1.5 * largest)
    figure = dark_figure(7.2, 5.0)
    visits = (
        ("baseline", tracks.baseline, lesion.baseline, lesion.before),
        ("follow-up", tracks.followup, lesion.followup, lesion.after),
    )
    for row, (name, image, center, extent) in zip(figure.subplots(2, 3), visits, strict=True):
        _draw_visit(row, image, center, extent, half_width)
        row[0].set_ylabel(name, color=PICTURE_TEXT)
    return figure


def _draw_visit(row: Any, image: Image, center: FloatArray, extent: Extent | None, half_width: float) -> None:
    pixel = max(_PIXEL_MM, half_width / _MAX_HALF_PIXELS)  # of organs and bodies no more than of lesions
    middle = int(half_width / pixel)
    grid = Grid.make((2 * middle + 1,) * 3, origin=center - pixel * middle, spacing=pixel)
    crop = resample(image, grid)
    inside = None if extent is None else extent.on(grid)
    for ax, view in zip(row, views_of(3), strict=True):
        draw_slice(ax, grey(view.picture(crop.array, middle), window(image)), view, grid)
        if inside is not None and view.picture(inside, middle).any():
            outline = view.picture(inside, middle).astype(float)
            ax.contour(outline, [0.5], colors=PICTURE_OUTLINE, linewidths=1, extent=view.extent(grid), origin="upper")
        ax.plot(*view.place(grid, center[None])[0], "+", color=PICTURE_OUTLINE, markersize=8)
        ax.set(xticks=[], yticks=[], title=view.name)
        ax.title.set(color=PICTURE_TEXT, fontsize=9)


def _table(lesions: tuple[TrackedLesion, ...]) -> Table:
    rows = [
        (
            lesion.name,
            *(f"{value:.1f}" for value in lesion.followup),
            f"{lesion.reliability:.2f}",
            *([] if lesion.expected_error is None else [f"{lesion.expected_error:.1f}"]),
            *(None if extent is None else f"{extent.diameter:.1f}" for extent in (lesion.before, lesion.after)),
            "not measured" if lesion.change is None else f"{lesion.change:+.0f} %",
        )
        for lesion in lesions
    ]
    has_error = any(lesion.expected_error is not None for lesion in lesions)
    columns = _COLUMNS if has_error else tuple(column for column in _COLUMNS if column != _EXPECTED)
    marked = [
        i
        for i, lesion in enumerate(lesions)
        if lesion.reliability < _MIN_RELIABILITY or not lesion.in_view or lesion.gone
    ]
    return Table(rows, columns, numeric=range(1, len(columns)), marked=marked)


def _remarks(lesion: TrackedLesion) -> str:
    remarks = [] if lesion.in_view else ["The surroundings put it outside the follow-up's field of view."]
    if lesion.gone:
        remarks.append("It has gone, or shrunk to very little.")
    if lesion.why:
        remarks.append(f"Size not measured: {lesion.why}.")
    if lesion.why and lesion.propagated is not None:
        remarks.append(f"It would be {lesion.propagated:.1f} mm if it had changed as the tissue around it.")
    return " ".join(remarks)
