"""The pictures: before and after, and the matches. No global state of matplotlib is touched."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.registration.quality import initial_alignment
from samreg.report.views import (
    View,
    focus,
    grey,
    overlay,
    slice_grid,
    slice_indices,
    standard,
    views_of,
    window,
)
from samreg.spatial.files import atomic_path
from samreg.spatial.image import Image
from samreg.spatial.resample import resample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from samreg.registration.result import RegistrationResult

_WIDTH, _LEAST_WIDTH, _MOST_HEIGHT = 3.0, 2.2, 5.0  # inches a picture; titles need the least
_DPI = 100
_SLAB = 8.0  # mm from the slice within which matches are drawn
_MOST_MATCHES = 250  # drawn in one picture
DARK, LIGHT = "#101214", "#e8eaed"


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
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(draw_overview(result)))
    return path


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": "samreg"}, pil_kwargs={"optimize": True})
    return buffer.getvalue()


def img(picture: bytes, alt: str) -> str:
    """Return an HTML element that holds a PNG."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(picture).decode("ascii")}">'


def draw_overview(result: RegistrationResult) -> Figure:
    """Draw the images before and after registration; see :func:`write_preview`."""
    fixed = standard(result.fixed)
    warped = standard(result.warped) if result else None
    before, how = initial_alignment(result)
    indices = slice_indices(fixed.grid, focus(result))
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
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=view.extent(fixed.grid), interpolation="bilinear")
        _label(row[0], view)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, color=LIGHT, fontsize=10)
    return figure


def draw_matches(result: RegistrationResult) -> Figure:
    """Draw the matches near the slices, coloured by reliability.

    Left where they are in the fixed image, right where their counterparts lie in the warped one, each with a
    line from where the transform expects it.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection

    fixed, warped = standard(result.fixed), standard(result.warped)
    pairs = result.correspondences
    here, there = pairs.fixed, result.inverse.transform_points(pairs.moving)
    indices = slice_indices(fixed.grid, focus(result))
    figure, axes = _canvas(fixed, 2, legend=True)
    colours = ScalarMappable(cmap="viridis")
    colours.set_clim(0, 1)
    random = np.random.default_rng(0)
    for row, view in zip(axes, views_of(fixed.ndim), strict=True):
        index = indices[view.name]
        near = np.ones(len(here), dtype=bool)
        if view.through is not None:
            off = (fixed.grid.world_to_index(here)[:, view.through] - index) * fixed.spacing[view.through]
            near = np.abs(off) <= _SLAB
        near = random.permutation(np.flatnonzero(near))[:_MOST_MATCHES]
        near = near[np.argsort(pairs.reliability[near])]  # the reliable ones on top
        start, end = view.place(fixed.grid, here[near]), view.place(fixed.grid, there[near])
        colour = colours.to_rgba(pairs.reliability[near])
        for ax, image in zip(row, (fixed, warped), strict=True):
            shown = grey(view.picture(image.array, index), window(image))
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=view.extent(fixed.grid), interpolation="bilinear")
            ax.autoscale(False)
        row[0].scatter(*start.T, c=colour, s=9, linewidths=0)
        row[1].add_collection(LineCollection(list(np.stack([start, end], axis=1)), colors=colour, linewidths=0.8))
        row[1].scatter(*end.T, c=colour, s=9, linewidths=0)
        _label(row[0], view)
    axes[0][0].set_title("matches in the fixed image", color=LIGHT, fontsize=10)
    axes[0][1].set_title(
        "counterparts in the warped image,\nlines from where the transform\nputs them", color=LIGHT, fontsize=10
    )
    _legend(figure, colours, axes[:, 1], "reliability")
    return figure


def draw_projections(result: RegistrationResult) -> Figure:
    """Draw all matches on both images, each in its own frame over its mean along the view, coloured by reliability."""
    from matplotlib.figure import Figure

    pairs = result.correspondences
    chosen = np.random.default_rng(0).permutation(len(pairs))[:_MOST_MATCHES]
    chosen = chosen[np.argsort(pairs.reliability[chosen])]
    sides = [
        (f"{name}, {view.name}", view, standard(image), points[chosen])
        for view in views_of(3)[1:]
        for name, image, points in (("fixed", result.fixed, pairs.fixed), ("moving", result.moving, pairs.moving))
    ]
    widths, heights = np.transpose([(i.grid.extent[v.across], i.grid.extent[v.down]) for _, v, i, _ in sides])
    scale = min(4 * _WIDTH / widths.sum(), _MOST_HEIGHT / heights.max())
    size = (scale * widths.sum() + 1.0, scale * heights.max() + 0.4)
    figure = Figure(figsize=size, dpi=_DPI, facecolor=DARK, layout="constrained")
    axes = figure.subplots(1, len(sides), gridspec_kw={"width_ratios": widths})
    for ax, (title, view, image, points) in zip(axes, sides, strict=True):
        _bare(ax)
        assert view.through is not None
        mean = view.picture(image.array.mean(axis=2 - view.through, keepdims=True, dtype=np.float32), 0)
        low, high = np.percentile(mean, (1, 99))
        ax.imshow(mean, cmap="gray", vmin=low, vmax=high, extent=view.extent(image.grid), interpolation="bilinear")
        ax.autoscale(False)
        colours = ax.scatter(
            *view.place(image.grid, points).T, c=pairs.reliability[chosen], cmap="viridis", vmin=0, vmax=1, s=7
        )
        ax.set_title(title, color=LIGHT, fontsize=10)
    _legend(figure, colours, axes, "reliability")
    return figure


def _canvas(fixed: Image, columns: int, *, legend: bool = False) -> tuple[Figure, Any]:
    """Return a dark figure and its axes (views, columns), each row as high as its view in mm."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    views = views_of(fixed.ndim)
    sides = [(fixed.grid.extent[view.across], fixed.grid.extent[view.down]) for view in views]
    # one scale for all rows, so that organs are of one size; a long scan must not make the page endless
    widths, heights = np.transpose(sides)
    scale = min(_WIDTH / widths.max(), _MOST_HEIGHT / heights.max())
    column = max(_LEAST_WIDTH, scale * widths.max()) + (0.6 if legend else 0.1)
    size = (columns * column, scale * heights.sum() + 0.1 * len(heights) + 0.7)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=size, dpi=_DPI, facecolor=DARK, layout=layout)
    axes = figure.subplots(len(views), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for ax in axes.flat:
        _bare(ax)
    return figure, axes


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_facecolor("black")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _label(ax: Axes, view: View) -> None:
    ax.set_ylabel(view.name, color=LIGHT, fontsize=10)
    for x, text in zip((0.02, 0.98), view.labels, strict=True):
        ax.text(
            x,
            0.97,
            text,
            transform=ax.transAxes,
            color="#ffd54f",
            fontsize=9,
            ha="left" if x < 0.5 else "right",
            va="top",
        )


def _legend(figure: Figure, colours: Any, axes: Any, label: str) -> Any:
    bar = figure.colorbar(colours, ax=list(axes), location="right", shrink=0.6, aspect=30, pad=0.02)
    bar.set_label(label, color=LIGHT)
    bar.ax.tick_params(colors=LIGHT, labelsize=8)
    bar.outline.set_visible(False)
    return bar
