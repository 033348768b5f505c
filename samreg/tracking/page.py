"""The page on tracked lesions: a table, and both visits of each lesion side by side."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samreg.report.pictures import img, png
from samreg.report.views import grey, views_of, window
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from samreg.tracking.size import Extent
    from samreg.tracking.track import LesionTracks, TrackedLesion

_PIXEL = 0.75  # mm
_HALF = 35.0  # mm, half the width of a crop around a small lesion
_DARK, _LIGHT, _RIM = "#101214", "#e8eaed", "#ffb000"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; background: #f6f7f8; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 18px; margin: 28px 0 4px; }
p { margin: 4px 0 8px; color: #59626b; } img { max-width: 100%; border-radius: 4px; display: block; }
table { border-collapse: collapse; background: #fff; width: 100%; margin: 12px 0; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid #e3e6e9; }
th:first-child, td:first-child { text-align: left; }
tr.doubt { background: #fff4d6; }
"""
_COLUMNS = ("lesion", "x", "y", "z", "reliability", "before, mm", "after, mm", "change")
_DOUBTFUL = 0.5


def write_page(tracks: LesionTracks, path: str | os.PathLike[str]) -> Path:
    """Write one self-contained HTML page; lesions to look at are marked.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    path = Path(path)
    title = f"Lesions of {Path(tracks.baseline.name).name or 'the baseline'} followed up"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>In {escape(Path(tracks.followup.name).name or 'the follow-up')}. Positions in LPS mm; diameters of the "
        "sphere of the same volume, measured in the same way at both visits, or not at all.</p>",
        *(f"<p>{escape(note)}</p>" for note in tracks.notes),
        _table(tracks),
        *(_section(tracks, lesion) for lesion in tracks.lesions),
    ]
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def draw_lesion(tracks: LesionTracks, lesion: TrackedLesion) -> Figure:
    """Draw a lesion at baseline (above) and follow-up (below): axial, coronal, sagittal, outlined where measured."""
    from matplotlib.figure import Figure

    largest = max((extent.diameter for extent in (lesion.before, lesion.after) if extent is not None), default=0.0)
    half = max(_HALF, 1.5 * largest)
    figure = Figure(figsize=(9, 6.2), dpi=80, facecolor=_DARK, layout="constrained")
    axes = figure.subplots(2, 3)
    visits = (
        ("baseline", tracks.baseline, lesion.baseline, lesion.before),
        ("follow-up", tracks.followup, lesion.followup, lesion.after),
    )
    for row, (name, image, center, extent) in zip(axes, visits, strict=True):
        _draw_visit(row, image, center, extent, half)
        row[0].set_ylabel(name, color=_LIGHT)
    return figure


def _draw_visit(row: Any, image: Image, center: FloatArray, extent: Extent | None, half: float) -> None:
    size = 2 * int(half / _PIXEL) + 1
    grid = Grid.make((size,) * 3, origin=center - _PIXEL * (size // 2), spacing=_PIXEL)
    crop = resample(image, grid)
    inside = None if extent is None else extent.on(grid)
    for ax, view in zip(row, views_of(3), strict=True):
        picture, limits = grey(view.picture(crop.array, size // 2), window(image)), view.extent(grid)
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=limits, interpolation="bilinear")
        if inside is not None and view.picture(inside, size // 2).any():
            outline = view.picture(inside, size // 2).astype(float)
            ax.contour(outline, [0.5], colors=_RIM, linewidths=1, extent=limits, origin="upper")
        ax.plot(*view.place(grid, center[None])[0], "+", color=_RIM, markersize=8)
        ax.set(xticks=[], yticks=[], title=view.name)
        ax.title.set(color=_LIGHT, fontsize=9)


def _table(tracks: LesionTracks) -> str:
    header = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    rows = []
    for lesion in tracks.lesions:
        sizes = [None if extent is None else extent.diameter for extent in (lesion.before, lesion.after)]
        cells = [
            escape(lesion.name),
            *(f"{value:.1f}" for value in lesion.followup),
            f"{lesion.reliability:.2f}",
            *("" if size is None else f"{size:.1f}" for size in sizes),
            "not measured" if lesion.change is None else f"{lesion.change:+.0f} %",
        ]
        doubt = lesion.reliability < _DOUBTFUL or not lesion.in_view
        rows.append(f"<tr{' class=doubt' if doubt else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{header}</tr>{''.join(rows)}</table>"


def _section(tracks: LesionTracks, lesion: TrackedLesion) -> str:
    remarks = [] if lesion.in_view else ["The surroundings put it outside the follow-up's field of view."]
    if lesion.why:
        remarks.append(f"Size not measured: {lesion.why}.")
    if lesion.why and lesion.propagated is not None:
        remarks.append(f"It would be {lesion.propagated:.1f} mm if it had changed as the tissue around it.")
    picture = img(png(draw_lesion(tracks, lesion)), f"lesion {lesion.name} at both visits")
    return f"<h2>{escape(lesion.name)}</h2><p>{escape(' '.join(remarks))}</p>{picture}"
