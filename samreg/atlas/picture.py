"""The picture of an iteration: template, mean and standard deviation in three planes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from samreg.atlas.average import Average
from samreg.report.pictures import png
from samreg.report.views import grey, slice_indices, views_of, window
from samreg.spatial.files import atomic_path
from samreg.spatial.image import Image

_DARK, _LIGHT = "#101214", "#e8eaed"
_DEVIATION = (0.0, 300.0)  # HU shown black and white
_WIDTH = 3.2  # inches a picture


def write_picture(template: Image, parts: Average, title: str, path: str | os.PathLike[str]) -> None:
    """Write a PNG: rows axial, coronal, sagittal; columns template, mean, standard deviation.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    from matplotlib.figure import Figure

    grid, views = template.grid, views_of(template.ndim)
    heights = [grid.extent[view.down] / grid.extent[view.across] for view in views]
    figure = Figure(figsize=(3 * _WIDTH, _WIDTH * sum(heights) + 0.4), dpi=90, facecolor=_DARK, layout="constrained")
    axes = figure.subplots(len(views), 3, squeeze=False, height_ratios=heights)
    deviation = parts.variance.with_array(np.sqrt(parts.variance.array))
    columns = (
        ("template", template, window(parts.mean)),
        ("mean", parts.mean, window(parts.mean)),
        ("standard deviation", deviation, _DEVIATION),
    )
    for ax, (name, _, _) in zip(axes[0], columns, strict=True):
        ax.set_title(name, color=_LIGHT, fontsize=10)
    for row, view in zip(axes, views, strict=True):
        index = slice_indices(grid, grid.center)[view.name]
        for ax, (_, image, limits) in zip(row, columns, strict=True):
            shown = grey(view.picture(image.array, index), limits)
            ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=view.extent(grid), interpolation="bilinear")
            ax.set(xticks=[], yticks=[])
    figure.suptitle(title, color=_LIGHT, fontsize=11)
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(png(figure))
