"""Pictures of single registrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samreg.report.pictures import png
from samreg.report.views import grey, slice_grid, slice_indices, standard, views_of, window
from samreg.spatial import Image, Points, Transform, resample
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import FloatArray

_SLAB = 10.0  # mm from the slice within which landmarks are drawn
_EDGES = (-500.0, 200.0)  # HU: skin and lungs, bone
_DARK, _LIGHT = "#101214", "#e8eaed"


def write_picture(
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
    from matplotlib.figure import Figure

    fixed = standard(fixed)
    errors = np.linalg.norm(back - landmarks.positions, axis=1)
    worst = int(errors.argmax())
    indices = slice_indices(fixed.grid, landmarks.positions[worst])
    views = views_of(fixed.ndim)
    widths = [float(fixed.grid.extent[view.across]) for view in views]
    figure = Figure(figsize=(11, 4), dpi=80, facecolor=_DARK, layout="constrained")
    for ax, view in zip(figure.subplots(1, len(views), width_ratios=widths), views, strict=True):
        index = indices[view.name]
        extent = view.extent(fixed.grid)
        ax.imshow(grey(view.picture(fixed.array, index), window(fixed)), cmap="gray", vmin=0, vmax=1, extent=extent)
        if moving is not None:
            warped = resample(moving, slice_grid(fixed.grid, view, index), transform=transform)
            edges = view.picture(warped.array, 0)
            ax.contour(edges, _EDGES, colors=["#4fc3f7", "#ffb74d"], linewidths=0.6, extent=extent, origin="upper")
        off = (fixed.grid.world_to_index(landmarks.positions)[:, view.through] - index) * fixed.spacing[view.through]
        near = np.abs(off) <= _SLAB
        here, there = (view.place(fixed.grid, points[near]) for points in (landmarks.positions, back))
        ax.plot(*np.stack([here, there], axis=1).T, color="#ffee58", linewidth=1)
        ax.scatter(*here.T, s=30, facecolors="none", edgecolors="#66bb6a", linewidths=1.2)
        ax.scatter(*there.T, s=8, c="#ef5350")
        ax.set_xlim(extent[:2])
        ax.set_ylim(extent[2:])
        ax.set_axis_off()
    title = f"largest error in the fixed image: {landmarks.names[worst].replace('_', ' ')}, {errors[worst]:.1f} mm"
    figure.suptitle(title, color=_LIGHT, fontsize=10)
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(figure))
