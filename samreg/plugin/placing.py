"""Where napari shows an image and what belongs to it: layers, and the way between its coordinates and the world.

napari cuts volumes along their own axes only. An image is shown with its axes as near to LPS as can be, in mm,
(z, y, x); where it is oblique, turned about its first voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError
from samreg.landmarks import FoundLandmarks
from samreg.registration.result import RegistrationResult
from samreg.report.views import window
from samreg.spatial.displacement import jacobian_determinant, sample_displacement
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample
from samreg.spatial.standard import oriented
from samreg.spatial.transforms import AffineTransform, Transform, components, compose

IMAGE_KEY = "samreg_image"  # of a layer's metadata: the image that it shows
Layer = tuple[Any, dict[str, Any], str]  # data, options, kind: what napari calls LayerData

_MAP_SPACING_MM = 4.0  # finest voxels of maps that are laid over an image
_ARROW_SPACING_MM = 16.0
_POINT_SIZE_MM = 6.0
_SLAB_MM = 10.0  # in which points beside the slice are shown
_JACOBIAN_LIMITS = (0.0, 2.0)


@dataclass(frozen=True, eq=False)
class Frame:
    """The axes on which napari shows an image.

    Parameters
    ----------
    image
        The image with its axes along LPS as near as can be.
    """

    image: Image

    @classmethod
    def of(cls, image: Image) -> Frame:
        """Return the frame of an image as it was read.

        Examples
        --------
        >>> image = Image.from_array([[0, 1], [2, 3]], spacing=2, origin=(10, 20))
        >>> frame = Frame.of(image)
        >>> frame.to_napari([[12, 20]]).tolist(), frame.to_world([[20, 12]]).tolist()
        ([[20.0, 12.0]], [[12.0, 20.0]])
        """
        return cls(oriented(image))

    @property
    def grid(self) -> Grid:
        """The grid of the image as it is shown."""
        return self.image.grid

    def to_napari(self, points: ArrayLike) -> FloatArray:
        """Return where napari has world points (N, d), LPS mm: (N, d), (z, y, x) mm."""
        position: FloatArray = self.grid.world_to_index(points) * self.grid.spacing + self.grid.origin
        return position[:, ::-1]

    def to_world(self, positions: ArrayLike) -> FloatArray:
        """Return the world points (N, d), LPS mm, of napari's positions (N, d), (z, y, x) mm."""
        position = np.atleast_2d(np.asarray(positions, dtype=np.float64))[:, ::-1]
        return self.grid.index_to_world((position - self.grid.origin) / self.grid.spacing)

    def place(self, grid: Grid) -> dict[str, Any]:
        """Return the options that place an array on a grid along the frame's axes."""
        return {"scale": grid.spacing[::-1], "translate": self.to_napari(grid.origin)[0]}

    def map_grid(self) -> Grid:
        """Return the grid of maps that are laid over the image."""
        return self.grid.with_spacing(np.maximum(self.grid.spacing, _MAP_SPACING_MM))

    def image_layer(self, name: str | None = None, **options: Any) -> Layer:
        """Return the image itself as a layer."""
        given = {
            "name": name or self.image.label,
            "contrast_limits": window(self.image),
            "colormap": "gray",
            "metadata": {IMAGE_KEY: self.image},
            **self.place(self.grid),
        }
        return self.image.array, {**given, **options}, "image"

    def point_layer(self, points: ArrayLike, name: str, **options: Any) -> Layer:
        """Return world points (N, d), LPS mm, as a layer; those near the slice are shown."""
        given = {"name": name, "size": _POINT_SIZE_MM, "out_of_slice_display": True, "border_color": "white"}
        return self.to_napari(np.reshape(points, (-1, self.grid.ndim))), {**given, **options}, "points"


def image_of(layer: Any) -> Image:
    """Return the image that a napari layer shows: the one that samreg read, or one made of its data, scale and place.

    Raises
    ------
    InputError
        When the layer is no scalar 2D or 3D image, or is turned or sheared.
    """
    image = layer.metadata.get(IMAGE_KEY)
    if isinstance(image, Image):
        return image
    data = np.asarray(layer.data)
    if data.ndim not in (2, 3) or getattr(layer, "rgb", False):
        raise InputError(f"the layer {layer.name} is no scalar image in 2D or 3D; choose another")
    origin = np.asarray(layer.data_to_world((0,) * data.ndim))  # by scale, translate, rotate, shear and affine together
    steps = np.array([layer.data_to_world(one) for one in np.eye(data.ndim)]) - origin
    along = np.diag(steps)
    if np.abs(steps - np.diag(along)).max() > 1e-6:
        raise InputError(f"the layer {layer.name} is turned or sheared; open its file with samreg's reader instead")
    placed = {"spacing": np.abs(along)[::-1], "origin": origin[::-1], "direction": np.diag(np.sign(along)[::-1])}
    return Image.from_array(data, **placed, name=layer.name)


def similarity_layer(similarity: Image, frame: Frame) -> Layer:
    """Return a map of similarity as a layer over the image in which it was searched."""
    shown = resample(similarity, frame.map_grid(), fill=0.0)
    options = {
        "name": "similarity",
        "colormap": "inferno",
        "blending": "additive",
        "opacity": 0.6,
        "contrast_limits": similarity_limits(similarity),
        **frame.place(shown.grid),
    }
    return shown.array, options, "image"


def similarity_limits(similarity: Image) -> tuple[float, float]:
    """Return what is shown dark and bright of a map of similarity: what stands out of it."""
    values = similarity.array[similarity.array != 0]
    low, high = (float(v) for v in np.percentile(values, (70, 100))) if values.size else (0.0, 1.0)
    return low, max(high, low + 1e-3)


def warped_layers(result: RegistrationResult) -> list[Layer]:
    """Return the warped image as a layer over the fixed one."""
    frame = Frame.of(result.fixed)
    warped = oriented(result.warped)
    options = {
        "name": "warped",
        "contrast_limits": window(result.moving),
        "colormap": "cyan",
        "blending": "additive",
        "metadata": {IMAGE_KEY: warped},
        **frame.place(warped.grid),
    }
    return [(warped.array, options, "image")]


def field_layers(result: RegistrationResult) -> list[Layer]:
    """Return the displacement field, without the affine part, as its length in mm and as arrows."""
    frame = Frame.of(result.fixed)
    grid = frame.map_grid()
    deformation = _without_affine(_transform(result))
    length = np.linalg.norm(sample_displacement(deformation, grid).displacement, axis=-1)
    coarse = frame.grid.with_spacing(np.maximum(frame.grid.spacing, _ARROW_SPACING_MM))
    starts = coarse.world_points().reshape(-1, grid.ndim)
    begin, end = frame.to_napari(starts), frame.to_napari(deformation.transform_points(starts))
    size = {
        "name": "displacement, mm",
        "colormap": "viridis",
        "blending": "additive",
        "opacity": 0.6,
        "contrast_limits": (0.0, max(float(length.max()), 1e-3)),
        **frame.place(grid),
    }
    arrows = {"name": "displacement, arrows", "edge_width": 1.0, "edge_color": "yellow", "vector_style": "arrow"}
    return [(length, size, "image"), (np.stack([begin, end - begin], axis=1), arrows, "vectors")]


def jacobian_layers(result: RegistrationResult) -> list[Layer]:
    """Return the Jacobian determinant as a layer: 1 keeps volume, 0 and less are folds."""
    frame = Frame.of(result.fixed)
    grid = frame.map_grid()
    options = {
        "name": "Jacobian determinant",
        "colormap": "PiYG",
        "opacity": 0.6,
        "contrast_limits": _JACOBIAN_LIMITS,
        **frame.place(grid),
    }
    return [(jacobian_determinant(_transform(result), grid), options, "image")]


def landmark_layer(found: FoundLandmarks, frame: Frame) -> Layer:
    """Return the landmarks of an image that are sure, with their names."""
    points = found.to_points()
    return frame.point_layer(
        points.positions,
        "landmarks",
        features={"name": np.asarray(points.names), "reliability": _scores(points.scores, len(points))},
        text={"string": "{name}", "size": 8, "color": "white", "anchor": "upper_left"},
        face_color="lime",
    )


def _scores(scores: NDArray[Any] | None, count: int) -> FloatArray:
    return np.full(count, np.nan) if scores is None else np.asarray(scores, dtype=np.float64)


def _transform(result: RegistrationResult) -> Transform:
    if result.transform is None:
        raise InputError(f"not registered: {result.reason}")
    return result.transform


def _without_affine(transform: Transform) -> Transform:
    affines = [part for part in components(transform) if isinstance(part, AffineTransform)]
    return compose(transform, compose(*affines).inverse()) if affines else transform
