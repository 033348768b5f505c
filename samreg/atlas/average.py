"""Averages of images warped to one grid, and how alike they are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import from_sitk, to_sitk
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.points import Points
from samreg.spatial.resample import resample
from samreg.spatial.transforms import Transform


@dataclass(frozen=True, eq=False)
class Average:
    """Mean and variance of N images on one grid.

    Parameters
    ----------
    mean
        float32; where no image has data, the lowest intensity of all.
    variance
        float32, squared intensities; 0 where fewer than two images have data.
    coverage
        uint16, how many images have data.
    """

    mean: Image
    variance: Image
    coverage: Image


def average(images: Iterable[tuple[Image, Transform]], grid: Grid) -> Average:
    """Average images warped onto a grid, each counted where it has data.

    Parameters
    ----------
    images
        Each with its transform from the grid's frame to the image, LPS mm. They are held one at a time.
    grid
        Of the template.

    Raises
    ------
    InputError
        When there is none.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform
    >>> grid, identity = Grid.make((2, 2, 2)), AffineTransform.identity(3)
    >>> images = [Image(np.full((2, 2, 2), value), grid) for value in (10, 30)]
    >>> parts = average([(image, identity) for image in images], grid)
    >>> parts.mean.array[0, 0, 0], parts.variance.array[0, 0, 0], parts.coverage.array[0, 0, 0]
    (np.float32(20.0), np.float32(200.0), np.uint16(2))
    """
    mean, squares = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    count, lowest = np.zeros(grid.shape, np.uint16), np.inf
    for image, transform in images:  # Welford, Technometrics 1962
        ones = image.with_array(np.ones(image.shape, np.uint8))
        seen = resample(ones, grid, transform=transform, interpolation="nearest", fill=0).array > 0
        warped = resample(image, grid, transform=transform).array
        count += seen
        off = np.where(seen, warped - mean, 0)
        mean += off / np.maximum(count, 1)
        squares += off * np.where(seen, warped - mean, 0)
        lowest = min(lowest, float(image.array.min()))
    if not np.isfinite(lowest):
        raise InputError("no images to average")
    mean[count == 0] = lowest
    variance = squares / np.maximum(count.astype(np.float32) - 1, 1)
    return Average(Image(mean, grid, "mean"), Image(variance, grid, "variance"), Image(count, grid, "coverage"))


def sharpened(image: Image) -> Image:
    """Sharpen by the Laplacian, as ANTs' template construction does; mean and range stay."""
    import SimpleITK as sitk

    return from_sitk(sitk.LaplacianSharpening(to_sitk(image)), name="template")


def sharpness(image: Image, inside: NDArray[np.bool_]) -> float:
    """Return the mean length of the gradient inside a mask, intensity per mm."""
    gradient = np.gradient(image.array.astype(np.float32), *image.spacing[::-1])
    return float(np.sqrt(np.sum(np.square(gradient), axis=0))[inside].mean())


@dataclass(frozen=True, eq=False)
class LandmarkSpread:
    """Where landmarks of N subjects lie in a template.

    Parameters
    ----------
    points
        Their mean positions, LPS mm.
    spread
        (K,) root mean square distance of the subjects' landmarks from the mean, mm.
    count
        (K,) subjects that have the landmark.
    """

    points: Points
    spread: FloatArray
    count: NDArray[np.int64]


def landmark_spread(subjects: Mapping[str, Points]) -> LandmarkSpread:
    """Measure how far the same landmark of different subjects lies apart in a template.

    Parameters
    ----------
    subjects
        Landmarks of each subject, brought to the template, LPS mm.

    Raises
    ------
    InputError
        When no landmark is there.

    Examples
    --------
    >>> spread = landmark_spread({"a": Points([[0.0, 0, 0]], ("tip",)), "b": Points([[6.0, 0, 0]], ("tip",))})
    >>> spread.points.positions.tolist(), spread.spread.tolist(), spread.count.tolist()
    ([[3.0, 0.0, 0.0]], [3.0], [2])
    """
    places: dict[str, list[FloatArray]] = {}
    for points in subjects.values():
        for name, position in zip(points.names, points.positions, strict=True):
            places.setdefault(name, []).append(position)
    if not places:
        raise InputError("no landmarks to measure")
    means = np.array([np.mean(positions, axis=0) for positions in places.values()])
    spread = [
        np.sqrt(np.square(np.array(positions) - mean).sum(axis=1).mean())
        for positions, mean in zip(places.values(), means, strict=True)
    ]
    count = np.array([len(positions) for positions in places.values()])
    return LandmarkSpread(Points(means, tuple(places)), np.array(spread), count)


def probability(maps: Sequence[Image], label: int) -> Image:
    """Return the share of the subjects that have a label at each voxel, float32 in [0, 1].

    Parameters
    ----------
    maps
        Label maps on one grid; -1 where a subject shows nothing, so that it does not count there.
    label
        The label.

    Examples
    --------
    >>> maps = [Image.from_array(np.array([[values]], np.int16)) for values in ([-1, 1], [1, 2])]
    >>> probability(maps, 1).array.tolist()
    [[[1.0, 0.5]]]
    """
    seen = np.sum([labels.array >= 0 for labels in maps], axis=0, dtype=np.float32)
    have = np.sum([labels.array == label for labels in maps], axis=0, dtype=np.float32)
    return Image(have / np.maximum(seen, 1), maps[0].grid, f"label {label}")
