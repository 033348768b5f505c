"""How the views of an image are drawn that training compares."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ViewConfig:
    """How a view of an image is drawn; lengths in mm.

    Attributes
    ----------
    rotation
        Largest rotation about each axis, degrees.
    scale, anisotropy
        Largest isotropic scale factor and, on top, per axis; drawn log-uniformly.
    warp
        Largest root-mean-square gradient of the smooth warp.
    wavelength
        Shortest and longest wave of the warp.
    size
        Largest size of a view in coarse voxels, twice the input's size, (z, y, x) or (y, x).
    size_step
        Sizes of views are multiples of this many coarse voxels. A GPU plans convolutions anew for every size: with 8
        there are few.
    crop
        Smallest fraction of the image's extent that a view covers, per axis; z (y of a 2D image) is cropped always,
        the other axes in ``crop_in_plane`` of the views.
    crop_in_plane, mirror, lesion, blur, contrast, shading
        Probabilities. Both views of a pair are mirrored alike: a mirrored body is another person. Lesions are
        occluding discs in X-rays; shading, uneven exposure, is for X-rays alone.
    noise
        Largest standard deviation of the noise, HU, or thousandths of an X-ray's range.
    shoulders
        Probability that a shoulder girdle, where the person's landmarks show it, is moved as arms move it.
    """

    rotation: float = 18.0
    scale: float = 1.25
    anisotropy: float = 1.15
    warp: float = 0.3
    wavelength: tuple[float, float] = (70.0, 350.0)
    size: tuple[int, ...] = (60, 60, 80)
    size_step: int = 1
    crop: float = 0.4
    crop_in_plane: float = 0.3
    mirror: float = 0.15
    lesion: float = 0.3
    blur: float = 0.4
    contrast: float = 0.5
    shading: float = 0.5
    noise: float = 60.0
    shoulders: float = 0.0
