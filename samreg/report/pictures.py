"""The pictures: before and after, and the matches. No global state of matplotlib is touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.registration.quality import initial_alignment
from samreg.report.kit import PICTURE_LABEL, PICTURE_TEXT, dark_figure, write_png
from samreg.report.views import (
    View,
    grey,
    middle,
    overlay,
    slice_grid,
    slice_indices,
    views_of,
    window,
)
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample
from samreg.spatial.standard import oriented

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from samreg.registration.result import RegistrationResult

_WIDTH_INCHES, _MIN_WIDTH_INCHES, _MAX_HEIGHT_INCHES = 3.0, 2.2, 5.0  # of a picture; titles need the least
_FONT_SIZE = 10
_SLAB_MM = 8.0  # from the slice within which matches are drawn
_MAX_MATCHES = 250  # drawn in one picture


def write_preview(result: RegistrationResult, path: str | os.PathLike[str]) -> Path:
    """Write a PNG of the images before and after registration.

    Rows: axial, coronal and sagittal slices through the middle of what both images show of the body. Columns:
    fixed; moving before; moving after (warped); both before; both after, the fixed image red and the moving one
    cyan, grey where they agree. A failed result shows the columns before.

    Parameters
    ----------
    result
        A registration, failed or not.
    path
        The file.

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
    >>> from samreg.spatial import AffineTransform
    >>> image = samreg.Image.from_array(np.zeros((4, 5, 6)), spacing=(2, 2, 2), name="scan")
    >>> result = samreg.RegistrationResult(image, image, AffineTransform.identity(3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_preview(result, f"{folder}/preview.png").name
    'preview.png'
    """
    return write_png(draw_overview(result), path)


def draw_overview(result: RegistrationResult) -> Figure:
    """Draw the images before and after registration; see :func:`write_preview`."""
    fixed = oriented(result.fixed)
    warped = oriented(result.warped) if result else None
    before, how = initial_alignment(result)
    indices = slice_indices(fixed.grid, middle(result))
    fixed_window, moving_window = window(fixed), window(result.moving)
    titles = ["fixed", f"moving before,\n{how}", "fixed and moving before"]
    if warped is not None:
        titles = [titles[0], titles[1], "moving after (warped)", titles[2], "fixed and moving after"]
    figure, axes = _canvas(fixed, len(titles))
    for row, view in zip(axes, views_of(fixed.ndim), strict=True):
        index = indices[view.name]
        unmoved = resample(result.moving, slice_grid(fixed.grid, view, index), transform=before)
        f = grey(view.picture(fixed.array, index), fixed_window)
        m = grey(view.picture(unmoved.array, 0), moving_window)
        pictures = [f, m, overlay(f, m)]
        if warped is not None:
            w = grey(view.picture(warped.array, index), moving_window)
            pictures = [f, m, w, overlay(f, m), overlay(f, w)]
        for ax, picture in zip(row, pictures, strict=True):
            draw_slice(ax, picture, view, fixed.grid)
        _label(row[0], view)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, color=PICTURE_TEXT, fontsize=_FONT_SIZE)
    return figure


def draw_matches(result: RegistrationResult) -> Figure:
    """Draw the matches near the slices, coloured by reliability.

    Left where they are in the fixed image, right where their counterparts lie in the warped one, each with a
    line from where the transform expects it.
    """
    from matplotlib.collections import LineCollection

    fixed, warped = oriented(result.fixed), oriented(result.warped)
    pairs = result.correspondences
    assert pairs is not None
    expected, matched = pairs.fixed, result.inverse.transform_points(pairs.moving)
    indices = slice_indices(fixed.grid, middle(result))
    figure, axes = _canvas(fixed, 2, legend=True)
    colours = _reliability_colours()
    for row, view in zip(axes, views_of(fixed.ndim), strict=True):
        index = indices[view.name]
        chosen = _near(fixed.grid, view, index, expected)
        chosen = chosen[np.argsort(pairs.reliability[chosen])]  # the reliable ones on top
        start, end = view.place(fixed.grid, expected[chosen]), view.place(fixed.grid, matched[chosen])
        colour = colours.to_rgba(pairs.reliability[chosen])
        for ax, image in zip(row, (fixed, warped), strict=True):
            draw_slice(ax, grey(view.picture(image.array, index), window(image)), view, fixed.grid)
        row[0].scatter(*start.T, c=colour, s=9, linewidths=0)
        row[1].add_collection(LineCollection(list(np.stack([start, end], axis=1)), colors=colour, linewidths=0.8))
        row[1].scatter(*end.T, c=colour, s=9, linewidths=0)
        _label(row[0], view)
    for ax, title in zip(axes[0], ("in the fixed image", "counterparts in the warped image"), strict=True):
        ax.set_title(title, color=PICTURE_TEXT, fontsize=_FONT_SIZE)
    _legend(figure, colours, axes[:, 1], "reliability")
    return figure


def draw_projections(result: RegistrationResult) -> Figure:
    """Draw all matches on both images, each in its own frame over its mean along the view, coloured by reliability."""
    pairs = result.correspondences
    assert pairs is not None
    chosen = np.random.default_rng(0).permutation(len(pairs))[:_MAX_MATCHES]
    chosen = chosen[np.argsort(pairs.reliability[chosen])]
    sides = [
        (f"{name}, {view.name}", view, oriented(image), points[chosen])
        for view in views_of(3)[1:]
        for name, image, points in (("fixed", result.fixed, pairs.fixed), ("moving", result.moving, pairs.moving))
    ]
    widths, heights = np.transpose([(i.grid.extent[v.across], i.grid.extent[v.down]) for _, v, i, _ in sides])
    scale = min(4 * _WIDTH_INCHES / widths.sum(), _MAX_HEIGHT_INCHES / heights.max())
    figure = dark_figure(scale * widths.sum() + 1.0, scale * heights.max() + 0.4, layout=_layout())
    axes = figure.subplots(1, len(sides), gridspec_kw={"width_ratios": widths})
    colours = _reliability_colours()
    for ax, (title, view, image, points) in zip(axes, sides, strict=True):
        bare(ax)
        assert view.through is not None
        mean = view.picture(image.array.mean(axis=2 - view.through, keepdims=True, dtype=np.float32), 0)
        low, high = np.percentile(mean, (1, 99))
        draw_slice(ax, grey(mean, (low, max(high, low + 1e-6))), view, image.grid)
        ax.scatter(*view.place(image.grid, points).T, c=colours.to_rgba(pairs.reliability[chosen]), s=7)
        ax.set_title(title, color=PICTURE_TEXT, fontsize=_FONT_SIZE)
    _legend(figure, colours, axes, "reliability")
    return figure


def draw_slice(ax: Axes, picture: NDArray[Any], view: View, grid: Grid) -> None:
    """Draw a picture (rows, columns[, 3]) of values from 0 to 1 at its place in mm, and keep the limits."""
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=view.extent(grid), interpolation="bilinear")
    ax.autoscale(False)


def bare(ax: Axes) -> None:
    """Take ticks and frame from axes."""
    ax.set(xticks=[], yticks=[], facecolor="black")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _near(grid: Grid, view: View, index: int, points: FloatArray) -> NDArray[np.intp]:
    """Return which points lie near a slice, in random order and no more than can be seen."""
    near = np.arange(len(points))
    if view.through is not None:
        distance = (grid.world_to_index(points)[:, view.through] - index) * grid.spacing[view.through]
        near = np.flatnonzero(np.abs(distance) <= _SLAB_MM)
    return np.random.default_rng(0).permutation(near)[:_MAX_MATCHES]


def _canvas(fixed: Image, columns: int, *, legend: bool = False) -> tuple[Figure, Any]:
    """Return a dark figure and its axes (views, columns), each row as high as its view in mm."""
    views = views_of(fixed.ndim)
    sides = [(fixed.grid.extent[view.across], fixed.grid.extent[view.down]) for view in views]
    # one scale for all rows, so that organs are of one size; a long scan must not make the page endless
    widths, heights = np.transpose(sides)
    scale = min(_WIDTH_INCHES / widths.max(), _MAX_HEIGHT_INCHES / heights.max())
    column = max(_MIN_WIDTH_INCHES, scale * widths.max()) + (0.6 if legend else 0.1)
    height = scale * heights.sum() + 0.1 * len(heights) + 0.7
    figure = dark_figure(columns * column + 0.2, height, layout=_layout())
    axes = figure.subplots(len(views), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for ax in axes.flat:
        bare(ax)
    return figure, axes


def _layout() -> Any:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.0, hspace=0.0)


def _label(ax: Axes, view: View) -> None:
    """Write the view's name beside its picture, and what lies left and right into it."""
    from matplotlib.patheffects import withStroke

    ax.set_ylabel(view.name, color=PICTURE_TEXT, fontsize=_FONT_SIZE)
    for x, text, side in zip((0.02, 0.98), view.labels, ("left", "right"), strict=True):
        ax.text(
            x, 0.97, text, transform=ax.transAxes, color=PICTURE_LABEL, fontsize=9, ha=side, va="top",
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip


def _reliability_colours() -> Any:
    from matplotlib.cm import ScalarMappable

    colours = ScalarMappable(cmap="viridis")
    colours.set_clim(0, 1)
    return colours


def _legend(figure: Figure, colours: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(colours, ax=list(axes), location="right", shrink=0.6, aspect=30, pad=0.02)
    bar.set_label(label, color=PICTURE_TEXT)
    bar.ax.tick_params(colors=PICTURE_TEXT, labelsize=8)
    bar.outline.set_visible(False)
