"""Landmarks of a template, and where they were matched in a target: a picture, or a page with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.report.kit import PICTURE_TEXT, Picture, Table, dark_figure, png, write_page, write_png
from samreg.report.pictures import draw_slice
from samreg.report.views import grey, standard, views_of, window
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.points import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from samreg.landmarks.match import LandmarkMatches

_IMAGE_INCHES, _CROP_INCHES = 7.0, 2.6  # width of a 2D image, and of the surroundings of one landmark in a volume
_MAX_IMAGE_INCHES = 12.0  # height
_CROP_MM = 120.0  # width of these surroundings
_TEMPLATE_COLOUR = (0.5, 0.9, 1.0, 1.0)


def write_landmark_report(
    template: Image, points: Points, target: Image, matches: LandmarkMatches, path: str | os.PathLike[str]
) -> Path:
    """Draw points of a template and where :func:`samreg.match` puts them.

    2D images are drawn whole, the points numbered; of volumes the axial slice through each point. In the target the
    colour is the reliability.

    Parameters
    ----------
    template, target
        The images that were matched.
    points
        In the template, LPS mm.
    matches
        Where they are in the target.
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

    Examples
    --------
    >>> import samreg, tempfile
    >>> scan = np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32)
    >>> scan = samreg.Image.from_array(scan, spacing=(8, 8, 8))
    >>> points = samreg.Points([[40.0, 40.0, 40.0]])
    >>> matches = samreg.match(scan, points, scan, model="mind", search="global")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_landmark_report(scan, points, scan, matches, f"{folder}/landmarks.html").name
    'landmarks.html'
    """
    figure = draw_landmarks(template, points, target, matches)
    if Path(path).suffix.lower() != ".html":
        return write_png(figure, path)
    axes = "xyz"[: matches.points.shape[1]]
    columns = ("", "name", *(f"{axis} mm" for axis in axes), "similarity", "reliability")
    numbers = np.column_stack([matches.points, matches.similarity, matches.reliability])
    decimals = (*(1 for _ in axes), 2, 2)
    rows = [
        (str(i), name, *(f"{value:.{places}f}" for value, places in zip(values, decimals, strict=True)))
        for i, (name, values) in enumerate(zip(matches.names, numbers, strict=True), start=1)
    ]
    return write_page(
        path,
        "landmarks.html",
        title=f"Points of {Path(template.name).name or 'template'} in {Path(target.name).name or 'target'}",
        notes=matches.notes,
        picture=Picture(png(figure), "landmarks in template and target"),
        table=Table(rows, columns, numeric=range(2, len(columns))),
    )


def draw_landmarks(template: Image, points: Points, target: Image, matches: LandmarkMatches) -> Figure:
    """Draw points in both images; see :func:`write_landmark_report`."""
    from matplotlib.cm import ScalarMappable

    colours = ScalarMappable(cmap="plasma")
    colours.set_clim(0, 1)
    sides = (
        (standard(template), points.positions, np.full((len(points), 4), _TEMPLATE_COLOUR), "template"),
        (standard(target), matches.points, colours.to_rgba(matches.reliability), "target"),
    )
    labels = [str(i + 1) for i in range(len(points))]
    if template.ndim == 2:
        figure = dark_figure(2 * _IMAGE_INCHES, _height(template, target), layout="tight")
        for ax, (image, positions, colour, title) in zip(figure.subplots(1, 2), sides, strict=True):
            _draw(ax, image, 0, positions, colour, labels)
            ax.set_title(f"{title}: {Path(image.name).name or 'image'}", color=PICTURE_TEXT, fontsize=10)
        return figure
    figure = dark_figure(2 * _CROP_INCHES, _CROP_INCHES * len(points), layout="tight")
    for i, row in enumerate(figure.subplots(len(points), 2, squeeze=False)):
        for ax, (image, positions, colour, title) in zip(row, sides, strict=True):
            index = int(np.clip(np.rint(image.grid.world_to_index(positions[i])[0, 2]), 0, image.shape[0] - 1))
            x, y = _draw(ax, image, index, positions[i : i + 1], colour[i : i + 1], labels[i : i + 1])[0]
            ax.set_xlim(x - _CROP_MM / 2, x + _CROP_MM / 2)
            ax.set_ylim(y + _CROP_MM / 2, y - _CROP_MM / 2)
            ax.set_title(f"{title}, {points.names[i]}", color=PICTURE_TEXT, fontsize=8)
    return figure


def _draw(ax: Axes, image: Image, index: int, points: FloatArray, colours: Any, labels: list[str]) -> FloatArray:
    """Draw one slice with points; return their positions (N, 2) in the picture, mm."""
    view = views_of(image.ndim)[0]
    draw_slice(ax, grey(view.picture(image.array, index), window(image)), view, image.grid)
    positions = view.place(image.grid, points)
    ax.scatter(positions[:, 0], positions[:, 1], c=colours, s=30, marker="+", linewidths=1.2)
    for position, label, colour in zip(positions, labels, colours, strict=True):
        ax.annotate(label, position, xytext=(4, 4), textcoords="offset points", color=colour, fontsize=8, clip_on=True)
    ax.set_axis_off()
    return positions


def _height(*images: Image) -> float:
    """Return the inches of a figure that shows 2D images side by side."""
    ratio = max(float(image.grid.extent[1] / image.grid.extent[0]) for image in images)
    return min(_MAX_IMAGE_INCHES, _IMAGE_INCHES * ratio + 0.4)
