"""Pictures of landmarks in a template and where they were found."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.report.page import html_page
from samreg.report.pictures import DARK, LIGHT, img, png
from samreg.report.views import grey, standard, views_of, window
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.points import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from samreg.landmarks.match import LandmarkMatches

_DPI = 100
_FLAT_INCHES, _TILE_INCHES = 7.0, 2.6  # of a 2D image, and of the surroundings of one landmark in a volume
_TILE_MM = 120.0


def write_landmark_report(
    template: Image, points: Points, target: Image, found: LandmarkMatches, path: str | os.PathLike[str]
) -> Path:
    """Draw points of a template and where :func:`samreg.match` found them.

    2D images are drawn whole, the points numbered; of volumes the axial slice through each point. In the target the
    colour is the reliability.

    Parameters
    ----------
    template, target
        The images that were matched.
    points
        In the template, LPS mm.
    found
        The matches.
    path
        The file: .png, or .html with the numbers as a table.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    path = Path(path)
    picture = png(draw_landmarks(template, points, target, found))
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".html":
            temporary.write_text(_page(template, target, found, picture), encoding="utf-8")
        else:
            temporary.write_bytes(picture)
    return path


def draw_landmarks(template: Image, points: Points, target: Image, found: LandmarkMatches) -> Figure:
    """Draw points in both images; see :func:`write_landmark_report`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    colours = ScalarMappable(cmap="plasma")
    colours.set_clim(0, 1)
    sides = (
        (standard(template), points.positions, np.full((len(points), 4), (0.5, 0.9, 1.0, 1.0)), "template"),
        (standard(target), found.points, colours.to_rgba(found.reliability), "target"),
    )
    labels = [str(i + 1) for i in range(len(points))]
    if template.ndim == 2:
        figure = Figure(figsize=(2 * _FLAT_INCHES, _height(template, target)), dpi=_DPI, facecolor=DARK, layout="tight")
        for ax, (image, places, colour, title) in zip(figure.subplots(1, 2), sides, strict=True):
            _draw(ax, image, 0, places, colour, labels)
            ax.set_title(f"{title}: {Path(image.name).name or 'image'}", color=LIGHT, fontsize=10)
    else:
        size = (2 * _TILE_INCHES, _TILE_INCHES * len(points))
        figure = Figure(figsize=size, dpi=_DPI, facecolor=DARK, layout="tight")
        for row, i in zip(figure.subplots(len(points), 2, squeeze=False), range(len(points)), strict=True):
            for ax, (image, places, colour, title) in zip(row, sides, strict=True):
                depth = int(np.clip(np.rint(image.grid.world_to_index(places[i])[0, 2]), 0, image.shape[0] - 1))
                x, y = _draw(ax, image, depth, places[i : i + 1], colour[i : i + 1], labels[i : i + 1])[0]
                ax.set_xlim(x - _TILE_MM / 2, x + _TILE_MM / 2)
                ax.set_ylim(y + _TILE_MM / 2, y - _TILE_MM / 2)
                ax.set_title(f"{title}, {points.names[i]}", color=LIGHT, fontsize=8)
    return figure


def _draw(ax: Axes, image: Image, depth: int, places: FloatArray, colour: Any, labels: list[str]) -> FloatArray:
    """Draw one slice with points; returns their positions (N, 2) in the picture, mm."""
    view = views_of(image.ndim)[0]
    shown = grey(view.picture(image.array, depth), window(image))
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=view.extent(image.grid), interpolation="bilinear")
    ax.autoscale(False)
    at = view.place(image.grid, places)
    ax.scatter(at[:, 0], at[:, 1], c=colour, s=30, marker="+", linewidths=1.2)
    for position, label, tint in zip(at, labels, colour, strict=True):
        ax.annotate(label, position, xytext=(4, 4), textcoords="offset points", color=tint, fontsize=8, clip_on=True)
    ax.set_axis_off()
    return at


def _height(*images: Image) -> float:
    """Inches of a figure that is to show 2D images side by side."""
    return min(12.0, _FLAT_INCHES * max(float(image.grid.extent[1] / image.grid.extent[0]) for image in images) + 0.4)


def _page(template: Image, target: Image, found: LandmarkMatches, picture: bytes) -> str:
    axes = "xyz"[: found.points.shape[1]]
    head = "<th></th><th>name</th>" + "".join(
        f'<th class="number">{h}</th>' for h in (*(f"{a} mm" for a in axes), "similarity", "reliability")
    )
    numbers = np.column_stack([found.points, found.similarity, found.reliability])
    rows = "".join(
        f"<tr><td>{i + 1}</td><td>{escape(name)}</td>"
        + "".join(f'<td class="number">{value:.2f}</td>' for value in numbers[i])
        + "</tr>"
        for i, name in enumerate(found.names)
    )
    title = f"{Path(template.name).name or 'template'}: its points in {Path(target.name).name or 'target'}"
    notes = "".join(f"<p>{escape(note)}</p>" for note in found.notes)
    return html_page(
        title, f"{notes}<figure>{img(picture, 'landmarks')}</figure><table><thead><tr>{head}</tr></thead>{rows}</table>"
    )
