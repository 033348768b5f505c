"""Pictures of single registrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samreg.report.kit import PICTURE_TEXT, dark_figure, write_png
from samreg.report.pictures import draw_slice
from samreg.report.views import View, grey, slice_grid, slice_indices, views_of, window
from samreg.spatial import Image, Points, Transform, resample
from samreg.spatial.grid import FloatArray
from samreg.spatial.standard import oriented

_SLAB_MM = 10.0  # from the slice within which landmarks are drawn
_EDGES_HU = (-500.0, 200.0)  # skin and lungs, bone
_EDGE_COLOURS = ("#4fc3f7", "#ffb74d")
_LINE_COLOUR, _FIXED_COLOUR, _MOVING_COLOUR = "#ffee58", "#66bb6a", "#ef5350"


def write_case_picture(
    path: Path, fixed: Image, moving: Image | None, transform: Transform, landmarks: Points, back: FloatArray
) -> None:
    """Write a PNG of the slices through the worst landmark of the fixed image.

    Parameters
    ----------
    path
        The file.
    fixed
        The fixed image.
    moving
        The moving image, whose warped edges are drawn; None where it must not be shown.
    transform
        Fixed to moving, LPS mm.
    landmarks
        Of the fixed image, drawn as rings where they lie near a slice.
    back
        (N, 3) their counterparts, brought back by the inverse, LPS mm: dots, with a line from the ring.
    """
    fixed = oriented(fixed)
    errors = np.linalg.norm(back - landmarks.positions, axis=1)
    worst = int(errors.argmax())
    indices = slice_indices(fixed.grid, landmarks.positions[worst])
    views = views_of(fixed.ndim)
    widths = [float(fixed.grid.extent[view.across]) for view in views]
    figure = dark_figure(8.8, 3.4)
    for ax, view in zip(figure.subplots(1, len(views), width_ratios=widths), views, strict=True):
        index = indices[view.name]
        draw_slice(ax, grey(view.picture(fixed.array, index), window(fixed)), view, fixed.grid)
        if moving is not None:
            warped = resample(moving, slice_grid(fixed.grid, view, index), transform=transform)
            ax.contour(
                view.picture(warped.array, 0), _EDGES_HU, colors=_EDGE_COLOURS, linewidths=0.6,
                extent=view.extent(fixed.grid), origin="upper",
            )  # fmt: skip
        near = _near(fixed, view, index, landmarks)
        expected, mapped = (view.place(fixed.grid, points[near]) for points in (landmarks.positions, back))
        ax.plot(*np.stack([expected, mapped], axis=1).T, color=_LINE_COLOUR, linewidth=1)
        ax.scatter(*expected.T, s=30, facecolors="none", edgecolors=_FIXED_COLOUR, linewidths=1.2)
        ax.scatter(*mapped.T, s=8, c=_MOVING_COLOUR)
        ax.set_axis_off()
    title = f"largest error in the fixed image: {landmarks.names[worst].replace('_', ' ')}, {errors[worst]:.1f} mm"
    figure.suptitle(title, color=PICTURE_TEXT, fontsize=10)
    write_png(figure, path)


def _near(image: Image, view: View, index: int, landmarks: Points) -> NDArray[np.bool_]:
    """Return which landmarks lie near a slice; all of them in 2D."""
    if view.through is None:
        return np.ones(len(landmarks), dtype=bool)
    voxels = image.grid.world_to_index(landmarks.positions)[:, view.through] - index
    return np.asarray(np.abs(voxels * image.spacing[view.through]) <= _SLAB_MM)
