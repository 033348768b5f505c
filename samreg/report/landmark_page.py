"""Landmarks of a template where they were matched in a target, and those of an atlas: a picture, or a page with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.report.kit import PICTURE_TEXT, Picture, Table, dark_figure, png, write_page, write_png
from samreg.report.pictures import bare, draw_slice
from samreg.report.views import grey, views_of, window
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.points import Points
from samreg.spatial.standard import oriented

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from samreg.landmarks.find import FoundLandmarks
    from samreg.landmarks.match import LandmarkMatches

_IMAGE_INCHES, _CROP_INCHES = 7.0, 2.6  # width of a 2D image, and of the surroundings of one landmark in a volume
_MAX_IMAGE_INCHES = 12.0  # height
_CROP_MM = 120.0  # width of these surroundings
_MAX_DRAWN = 60  # points of a volume; of more a picture takes minutes, and is higher than browsers show (32767 pixels)
_TEMPLATE_COLOUR = (0.5, 0.9, 1.0, 1.0)
_PROJECTION_INCHES = 11.0  # width of the projections of a volume
_NAME_SHARE = 0.2  # of a projection's width, for the longest names: nearer to its right edge they stand on the left


def write_landmark_report(
    template: Image, points: Points, target: Image, matches: LandmarkMatches, path: str | os.PathLike[str]
) -> Path:
    """Draw points of a template and where :func:`samreg.match` puts them.

    2D images are drawn whole, the points numbered; of volumes the axial slice through each point, the least sure first,
    60 points at most. In the target the colour is the reliability. The table has all points.

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
    expected = matches.error_column()
    headed = ["expected error mm"] * len(expected)
    columns = ("", "name", "reliability", *headed, *(f"{axis} mm" for axis in axes), "similarity")
    numbers = np.column_stack([matches.reliability, *expected.values(), matches.points, matches.similarity])
    decimals = (2, *(1 for _ in expected), *(1 for _ in axes), 2)
    rows = [
        (str(i + 1), matches.names[i], *(f"{v:.{places}f}" for v, places in zip(numbers[i], decimals, strict=True)))
        for i in _least_sure_first(matches)
    ]
    from samreg.landmarks.find import MIN_RELIABILITY

    doubtful = int((matches.reliability < MIN_RELIABILITY).sum())
    verdict = f"{doubtful} of {len(rows)} are doubtful: their reliability is below {MIN_RELIABILITY:g}"
    return write_page(
        path,
        "landmarks.html",
        title=f"Points of {Path(template.name).name or 'template'} in {Path(target.name).name or 'target'}",
        notes=(verdict, *matches.notes),
        picture=Picture(
            png(figure),
            "landmarks in template and target",
            f"The colour is the reliability.{_said_of_drawn(template, matches)}",
        ),
        table=Table(rows, columns, numeric=range(2, len(columns)), marked=range(doubtful)),
    )


def write_found_landmarks(image: Image, found: FoundLandmarks, path: str | os.PathLike[str]) -> Path:
    """Draw the landmarks that :func:`samreg.find_landmarks` found in an image.

    Those it is sure of are named, in colours of their reliability; unsure ones are small dots. A volume is drawn by its
    largest values along the view, from the front and from the left.

    Parameters
    ----------
    image
        In which they were found.
    found
        The landmarks.
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
    figure = _draw_found(oriented(image), found)
    if Path(path).suffix.lower() != ".html":
        return write_png(figure, path)
    axes = "xyz"[: found.points.shape[1]]
    columns = ("name", *(f"{axis} mm" for axis in axes), "reliability", "spread mm")
    rows = [
        (
            found.names[i],
            *(f"{x:.1f}" for x in found.points[i]),
            f"{found.reliability[i]:.2f}",
            "" if np.isnan(found.spread[i]) else f"{found.spread[i]:.1f}",
        )
        for i in np.flatnonzero(found.inside)[np.argsort(-found.reliability[found.inside], kind="stable")]
    ]
    return write_page(
        path,
        "landmarks.html",
        title=f"Landmarks of {Path(image.name).name or 'image'}",
        notes=found.notes,
        picture=Picture(png(figure), "landmarks found"),
        table=Table(rows, columns, numeric=range(1, len(columns))),
    )


def _draw_found(image: Image, found: FoundLandmarks) -> Figure:
    from matplotlib.cm import ScalarMappable

    colours = ScalarMappable(cmap="plasma")
    colours.set_clim(0, 1)
    views = views_of(image.ndim)[1:] if image.ndim == 3 else views_of(2)
    widths, heights = np.transpose([(image.grid.extent[view.across], image.grid.extent[view.down]) for view in views])
    scale = _PROJECTION_INCHES / widths.sum()
    figure = dark_figure(_PROJECTION_INCHES, scale * heights.max() + 0.3, layout="tight")
    panels = figure.subplots(1, len(views), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
    for ax, view in zip(panels, views, strict=True):
        bare(ax)
        values, limits = image.array, window(image)
        if view.through is not None:
            values = image.array.max(axis=2 - view.through, keepdims=True)
            low, high = np.percentile(values, (1, 99.5))
            limits = (float(low), float(max(high, low + 1e-6)))
        draw_slice(ax, grey(view.picture(values, 0), limits), view, image.grid)
        places = view.place(image.grid, found.points)
        unsure = found.inside & ~found.sure
        ax.scatter(*places[unsure].T, color=colours.to_rgba(found.reliability[unsure]), s=5)
        ax.scatter(*places[found.sure].T, color=colours.to_rgba(found.reliability[found.sure]), s=22, marker="+")
        first, last = ax.get_xlim()
        for i in np.flatnonzero(found.sure):
            on_left = abs(last - places[i, 0]) < _NAME_SHARE * abs(last - first)
            ax.annotate(
                found.names[i].replace("_", " "), places[i], xytext=(-4 if on_left else 4, 2),
                textcoords="offset points", ha="right" if on_left else "left",
                color=PICTURE_TEXT, fontsize=5, clip_on=True,
            )  # fmt: skip
    return figure


def draw_landmarks(template: Image, points: Points, target: Image, matches: LandmarkMatches) -> Figure:
    """Draw points in both images; see :func:`write_landmark_report`."""
    from matplotlib.cm import ScalarMappable

    colours = ScalarMappable(cmap="plasma")
    colours.set_clim(0, 1)
    sides = (
        (oriented(template), points.positions, np.full((len(points), 4), _TEMPLATE_COLOUR), "template"),
        (oriented(target), matches.points, colours.to_rgba(matches.reliability), "target"),
    )
    labels = [str(i + 1) for i in range(len(points))]
    if template.ndim == 2:
        figure = dark_figure(2 * _IMAGE_INCHES, _height(template, target), layout="tight")
        for ax, (image, positions, colour, title) in zip(figure.subplots(1, 2), sides, strict=True):
            _draw(ax, image, 0, positions, colour, labels)
            ax.set_title(f"{title}: {Path(image.name).name or 'image'}", color=PICTURE_TEXT, fontsize=10)
        return figure
    drawn = _least_sure_first(matches)[:_MAX_DRAWN]
    figure = dark_figure(2 * _CROP_INCHES, _CROP_INCHES * len(drawn), layout="tight")
    rows = figure.subplots(len(drawn), 2, squeeze=False)
    for i, row in zip(drawn, rows, strict=True):
        for ax, (image, positions, colour, title) in zip(row, sides, strict=True):
            index = int(np.clip(np.rint(image.grid.world_to_index(positions[i])[0, 2]), 0, image.shape[0] - 1))
            x, y = _draw(ax, image, index, positions[i : i + 1], colour[i : i + 1], labels[i : i + 1])[0]
            ax.set_xlim(x - _CROP_MM / 2, x + _CROP_MM / 2)
            ax.set_ylim(y + _CROP_MM / 2, y - _CROP_MM / 2)
            of = points.names[i] if title == "template" else f"reliability {matches.reliability[i]:.2f}"
            ax.set_title(f"{title}, {of}", color=PICTURE_TEXT, fontsize=8)
    return figure


def _least_sure_first(matches: LandmarkMatches) -> NDArray[np.int64]:
    return np.argsort(matches.reliability, kind="stable")


def _said_of_drawn(template: Image, matches: LandmarkMatches) -> str:
    """Return which points are drawn, where these are not all."""
    if template.ndim == 2 or len(matches) <= _MAX_DRAWN:
        return ""
    return f" The {_MAX_DRAWN} least sure points are drawn; the table has all {len(matches)}."


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
