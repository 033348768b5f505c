"""What samreg's registration in memory asks of SimpleITK, in torch, for a machine that has no room for the package.

Images are made, and resampled through affine transforms and displacement fields, linearly or to the nearest voxel, as
ITK does it: the border's voxels reach half a voxel outwards, and beyond is the default value. Nothing else is here.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from samreg.errors import InputError

sitkLinear, sitkNearestNeighbor, sitkBSpline, sitkFloat32 = "linear", "nearest", "bspline", np.dtype(np.float32)  # noqa: N816
_VOXELS_AT_ONCE = 4_000_000


class Image:
    """An array and where it lies; of several components where ``vector`` is set."""

    def __init__(self, array, vector=False):
        self.array, self.vector = array, vector
        self.ndim = array.ndim - vector
        self.origin, self.spacing, self.direction = np.zeros(self.ndim), np.ones(self.ndim), np.eye(self.ndim)

    def SetOrigin(self, origin):  # noqa: N802
        self.origin = np.asarray(origin, dtype=np.float64)

    def SetSpacing(self, spacing):  # noqa: N802
        self.spacing = np.asarray(spacing, dtype=np.float64)

    def SetDirection(self, direction):  # noqa: N802
        self.direction = np.asarray(direction, dtype=np.float64).reshape(self.ndim, self.ndim)

    def GetPixelID(self):  # noqa: N802
        return self.array.dtype

    def index(self, points):
        """Return continuous indices (N, d), x first, of world points (N, d)."""
        inverse = torch.from_numpy(np.linalg.inv(self.direction * self.spacing))
        return (points - torch.from_numpy(self.origin)) @ inverse.T

    def inside(self, index):
        """Tell which indices (N, d) lie in a voxel."""
        size = torch.tensor(self.array.shape[: self.ndim][::-1])
        return ((index >= -0.5) & (index < size - 0.5)).all(dim=1)

    def nearest(self, index):
        """Return where the voxels (N,) nearest to continuous indices (N, d) lie in the flattened array."""
        size = self.array.shape[: self.ndim][::-1]
        places = [((i + 0.5).floor().long()).clamp(0, n - 1) for i, n in zip(index.T, size, strict=True)]
        flat = places[-1]
        for axis in reversed(range(self.ndim - 1)):
            flat = flat * size[axis] + places[axis]
        return flat

    def linear(self, index):
        """Return the values (C, N), float32, at continuous indices (N, d)."""
        volume = torch.from_numpy(np.ascontiguousarray(self.array, dtype=np.float32))
        volume = volume.movedim(-1, 0) if self.vector else volume[None]
        last = torch.tensor(volume.shape[:0:-1]) - 1
        at = (2 * index / last.clamp(min=1) - 1).float().reshape(1, *[1] * (self.ndim - 1), -1, self.ndim)
        return F.grid_sample(volume[None], at, padding_mode="border", align_corners=True).reshape(len(volume), -1)


class AffineTransform:
    """A matrix and a translation."""

    def __init__(self, ndim):
        self.matrix, self.translation = torch.eye(ndim, dtype=torch.float64), torch.zeros(ndim, dtype=torch.float64)

    def SetMatrix(self, matrix):  # noqa: N802
        self.matrix = torch.tensor(matrix, dtype=torch.float64).reshape(self.matrix.shape)

    def SetTranslation(self, translation):  # noqa: N802
        self.translation = torch.tensor(translation, dtype=torch.float64)

    def apply(self, points):
        return points @ self.matrix.T + self.translation


class DisplacementFieldTransform:
    """An image of vectors that are added."""

    def __init__(self, field):
        self.field = field

    def apply(self, points):
        index = self.field.index(points)
        return points + self.field.linear(index).T * self.field.inside(index)[:, None]


class CompositeTransform:
    """Several, the last one applied first."""

    def __init__(self, transforms):
        self.transforms = transforms

    def apply(self, points):
        for transform in reversed(self.transforms):  # ITK applies the last one first
            points = transform.apply(points)
        return points


class ResampleImageFilter:
    """What :func:`samreg.spatial.resample` sets, and then executes."""

    def __init__(self):
        self.transform = None
        self.repeats_border = False

    def SetSize(self, size):  # noqa: N802
        self.shape = tuple(size)[::-1]

    def SetOutputOrigin(self, origin):  # noqa: N802
        self.origin = torch.tensor(origin, dtype=torch.float64)

    def SetOutputSpacing(self, spacing):  # noqa: N802
        self.spacing = torch.tensor(spacing, dtype=torch.float64)

    def SetOutputDirection(self, direction):  # noqa: N802
        self.direction = torch.tensor(direction, dtype=torch.float64).reshape(len(self.shape), -1)

    def SetInterpolator(self, interpolator):  # noqa: N802
        if interpolator == sitkBSpline:
            raise InputError(
                'interpolation "bspline" needs SimpleITK, for which experiments/gpu_stand_in stands here; install '
                'SimpleITK, or give "linear" or "nearest"'
            )
        self.interpolator = interpolator

    def SetDefaultPixelValue(self, value):  # noqa: N802
        self.value = value

    def SetUseNearestNeighborExtrapolator(self, use):  # noqa: N802
        self.repeats_border = use

    def SetOutputPixelType(self, kind):  # noqa: N802
        self.kind = kind

    def SetTransform(self, transform):  # noqa: N802
        self.transform = transform

    def Execute(self, image):  # noqa: N802
        result = torch.full(self.shape, self.value, dtype=torch.from_numpy(np.empty(0, self.kind)).dtype)
        source = torch.from_numpy(np.ascontiguousarray(image.array)).flatten()
        planes = max(1, _VOXELS_AT_ONCE // int(np.prod(self.shape[1:])))
        for first in range(0, self.shape[0], planes):
            part = result[first : first + planes]
            axes = [torch.arange(n, dtype=torch.float64) for n in part.shape]
            axes[0] += first
            index = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).flatten(0, -2)
            points = index @ (self.direction * self.spacing).T + self.origin
            index = image.index(points if self.transform is None else self.transform.apply(points))
            inside = image.inside(index)
            if self.interpolator == sitkLinear:
                part.view(-1)[inside] = image.linear(index[inside])[0].to(part.dtype)
            else:
                part.view(-1)[inside] = source[image.nearest(index[inside])].to(part.dtype)
            if self.repeats_border:
                part.view(-1)[~inside] = source[image.nearest(index[~inside])].to(part.dtype)
        return Image(result.numpy())


class ProcessObject:
    """A number of threads that is kept; torch has its own."""

    threads = torch.get_num_threads()

    @classmethod
    def SetGlobalDefaultNumberOfThreads(cls, count):  # noqa: N802
        cls.threads = count

    @classmethod
    def GetGlobalDefaultNumberOfThreads(cls):  # noqa: N802
        return cls.threads


def GetImageFromArray(array, isVector=False):  # noqa: N802, N803
    return Image(array, vector=isVector)


def GetArrayFromImage(image):  # noqa: N802
    return image.array
