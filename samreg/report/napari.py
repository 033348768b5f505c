"""Looking at a registration in napari."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from samreg.errors import MissingExtraError
from samreg.registration.quality import initial_alignment
from samreg.report.views import window
from samreg.spatial.resample import resample
from samreg.spatial.standard import oriented

if TYPE_CHECKING:
    from samreg.registration.result import RegistrationResult

_POINT_SIZE_MM = 4.0
_SLAB_MM = 12.0  # of matches that are shown at a time; images show their slice


def show(result: RegistrationResult) -> Any:
    """Open napari on a registration; see :meth:`samreg.RegistrationResult.view`."""
    try:
        import napari
    except ImportError as error:
        raise MissingExtraError('the viewer needs napari: pip install "samreg[view]"') from error
    viewer = napari.Viewer(title=f"{result.moving.label} registered to {result.fixed.label}")
    add_layers(viewer, result)
    return viewer


def add_layers(viewer: Any, result: RegistrationResult) -> None:
    """Add a registration's layers to a viewer.

    All lie on the fixed image's axes, turned as near to LPS as can be, in mm: (z, y, x) of the world where the
    fixed image is not oblique, and that turned about its first voxel where it is, for napari cuts no oblique slices.

    Parameters
    ----------
    viewer
        A napari viewer, or its model.
    result
        One that failed shows the images before alone.
    """
    fixed = oriented(result.fixed)
    before, how = initial_alignment(result)
    moved = {f"moving before, {how}": oriented(resample(result.moving, result.fixed.grid, transform=before))}
    if result:
        moved["warped"] = oriented(result.warped)
    place = {"scale": fixed.spacing[::-1], "translate": fixed.origin[::-1]}
    viewer.add_image(fixed.array, name="fixed", contrast_limits=window(fixed), colormap="red", **place)
    for name, image in moved.items():
        viewer.add_image(
            image.array,
            name=name,
            contrast_limits=window(result.moving),
            colormap="cyan",
            blending="additive",
            visible=name == "warped" or not result,
            **place,
        )
    pairs = result.correspondences
    if not result or pairs is None or not len(pairs):
        return
    back = result.inverse.transform_points(pairs.moving)
    for name, points in (("matches", pairs.fixed), ("matches, counterparts warped", back)):
        viewer.add_points(
            (fixed.grid.world_to_index(points) * fixed.spacing + fixed.origin)[:, ::-1],
            name=name,
            features={"reliability": pairs.reliability},
            face_color="reliability",
            face_colormap="viridis",
            face_contrast_limits=(0, 1),
            size=_POINT_SIZE_MM,
            projection_mode="all",
            visible=name == "matches",
        )
    viewer.dims.thickness = (_SLAB_MM,) * fixed.ndim
