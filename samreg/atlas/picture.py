"""The picture of an iteration: template, mean and standard deviation in three planes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from samreg.atlas.average import Average
from samreg.report.kit import PICTURE_TEXT, dark_figure, write_png
from samreg.report.pictures import draw_slice
from samreg.report.views import grey, slice_indices, views_of, window
from samreg.spatial.image import Image

_DEVIATION_SHARE = 0.23  # of the window of the mean, shown white; of a CT 300 HU
_WIDTH_INCHES = 2.9  # of a picture


def write_template_picture(template: Image, parts: Average, title: str, path: str | os.PathLike[str]) -> Path:
    """Write a PNG: rows axial, coronal, sagittal; columns template, mean, standard deviation.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    grid, views = template.grid, views_of(template.ndim)
    heights = [grid.extent[view.down] / grid.extent[view.across] for view in views]
    figure = dark_figure(3 * _WIDTH_INCHES, _WIDTH_INCHES * sum(heights) + 0.4)
    axes = figure.subplots(len(views), 3, squeeze=False, height_ratios=heights)
    deviation = parts.variance.with_array(np.sqrt(parts.variance.array))
    low, high = window(parts.mean)
    columns = (
        ("template", template, (low, high)),
        ("mean", parts.mean, (low, high)),
        ("standard deviation", deviation, (0.0, _DEVIATION_SHARE * (high - low))),
    )
    indices = slice_indices(grid, grid.center)
    for row, view in zip(axes, views, strict=True):
        for ax, (_, image, limits) in zip(row, columns, strict=True):
            draw_slice(ax, grey(view.picture(image.array, indices[view.name]), limits), view, grid)
            ax.set(xticks=[], yticks=[])
    for ax, (name, _, _) in zip(axes[0], columns, strict=True):
        ax.set_title(name, color=PICTURE_TEXT, fontsize=10)
    figure.suptitle(title, color=PICTURE_TEXT, fontsize=11)
    return write_png(figure, path)
