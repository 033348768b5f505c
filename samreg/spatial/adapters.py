"""Conversions in memory, both ways: SimpleITK, ANTs, ITK, nibabel, numpy, torch; from MONAI and TorchIO.

SimpleITK, ITK and ANTs are LPS like samreg; nibabel, MONAI and TorchIO are RAS and are turned here and nowhere else.
Arrays of ANTs and nibabel are (x, y, z), of MONAI and TorchIO (channel, x, y, z), all others (z, y, x).
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np

from samreg.errors import InputError, MissingExtraError
from samreg.spatial.displacement import DisplacementField, InverseField
from samreg.spatial.files import reading
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.placement import image_from_geometry, image_from_matrix
from samreg.spatial.remarks import remark
from samreg.spatial.transforms import AffineTransform, Transform, components, compose

log = logging.getLogger(__name__)

_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNITS_MM = {1: 1000.0, 3: 0.001}  # NIfTI's codes of m and µm, beside mm
_MAX_DISAGREEMENT = 0.1  # voxels, between the geometries that one NIfTI header holds


def to_sitk(image: Image) -> Any:
    """Return a SimpleITK image with the same voxels and geometry; booleans become uint8.

    Examples
    --------
    >>> from samreg import Image
    >>> from samreg.spatial.adapters import to_sitk
    >>> to_sitk(Image.from_array([[0, 1, 2]], spacing=(0.5, 2))).GetSpacing()
    (0.5, 2.0)
    """
    import SimpleITK as sitk

    array = image.array.astype(np.uint8) if image.array.dtype == bool else image.array
    result = sitk.GetImageFromArray(np.ascontiguousarray(array))
    _set_sitk_geometry(result, image.grid)
    return result


def from_sitk(image: Any, *, name: str = "") -> Image:
    """Return an Image from a scalar SimpleITK image; a fourth dimension of one frame is dropped.

    A label map (``sitkLabelUInt8`` and the like) becomes the image of its labels, 0 elsewhere.

    Raises
    ------
    InputError
        When the image has several components or frames, or is neither 2D nor 3D.

    Examples
    --------
    >>> import SimpleITK
    >>> from samreg.spatial.adapters import from_sitk
    >>> from_sitk(SimpleITK.Image([4, 5, 6, 1], SimpleITK.sitkInt16)).shape
    (6, 5, 4)
    """
    import SimpleITK as sitk

    _require_image(image, "GetNumberOfComponentsPerPixel", name)
    if image.GetPixelID() in (sitk.sitkLabelUInt8, sitk.sitkLabelUInt16, sitk.sitkLabelUInt32, sitk.sitkLabelUInt64):
        image = sitk.LabelMapToLabel(image)  # which has no array, and whose components end the process when asked for
    _require_scalar(image.GetNumberOfComponentsPerPixel(), name)
    return image_from_geometry(sitk.GetArrayFromImage(image), *sitk_geometry(image), name=name)


def to_ants(image: Image) -> Any:
    """Return an ANTs image with the same voxels and geometry, float32 unless ANTs has the type."""
    import ants

    array = _as_one_of(image.array, (np.uint8, np.uint32, np.float32))
    return ants.from_numpy(
        np.ascontiguousarray(array.T),
        origin=tuple(image.origin),
        spacing=tuple(image.spacing),
        direction=np.array(image.direction),
    )


def from_ants(image: Any, *, name: str = "") -> Image:
    """Return an Image from a scalar ANTs image; a fourth dimension of one frame is dropped.

    Raises
    ------
    InputError
        When the image has several components or frames.
    """
    _require_image(image, "numpy", name)
    _require_scalar(image.components if getattr(image, "has_components", False) else 1, name)
    return image_from_geometry(
        np.ascontiguousarray(image.numpy().T), image.origin, image.spacing, np.asarray(image.direction), name=name
    )


def to_itk(image: Image) -> Any:
    """Return an ITK image (Python package ``itk``), of the smallest of its types that holds the voxels, a copy.

    Raises
    ------
    MissingExtraError
        When the package itk is not installed.
    """
    itk = _import_itk()
    array = _as_one_of(image.array, (np.uint8, np.int16, np.uint16, np.float32, np.float64))
    result = itk.image_from_array(np.ascontiguousarray(array))
    result.SetOrigin(image.origin.tolist())
    result.SetSpacing(image.spacing.tolist())
    result.SetDirection(itk.matrix_from_array(np.array(image.direction)))
    return result


def from_itk(image: Any, *, name: str = "") -> Image:
    """Return an Image from a scalar ITK image (Python package ``itk``); a fourth dimension of one frame is dropped.

    Raises
    ------
    InputError
        When the image has several components or frames.
    """
    itk = _import_itk()
    _require_image(image, "GetNumberOfComponentsPerPixel", name)
    _require_scalar(image.GetNumberOfComponentsPerPixel(), name)
    return image_from_geometry(
        itk.array_from_image(image),
        np.asarray(image.GetOrigin()),
        np.asarray(image.GetSpacing()),
        itk.array_from_matrix(image.GetDirection()),
        name=name,
    )


def to_nibabel(image: Image) -> Any:
    """Return a ``nibabel.Nifti1Image``: array (x, y, z) or (x, y), affine to RAS mm.

    Raises
    ------
    InputError
        When the image has more voxels along an axis than NIfTI-1 can count; ITK does not read NIfTI-2.
    """
    import nibabel as nib

    array = image.array.astype(np.uint8) if image.array.dtype == bool else image.array
    if max(image.shape) > (most := np.iinfo(np.int16).max):
        raise InputError(
            f"{image.label}: {max(image.shape)} voxels along an axis, and NIfTI holds {most}; write .nrrd or .mha"
        )
    result = nib.Nifti1Image(np.ascontiguousarray(array.T), to_nifti_affine(image.grid), dtype=array.dtype)
    result.header.set_xyzt_units("mm")
    result.set_sform(result.affine, code=1)
    result.set_qform(result.affine, code=1)
    return result


def from_nibabel(image: Any, *, name: str = "") -> Image:
    """Return an Image from a nibabel image (RAS turned to LPS); a 3D volume of one slice stays 3D.

    Stored integers keep their type unless the file scales them; scaled ones become float32. A sheared affine is
    resampled onto an orthogonal grid of the same spacing. Where the header holds several geometries that disagree, a
    warning says how far, and which is used: ``image.affine``, which is the sform where there is one.

    Raises
    ------
    InputError
        When the image is not 2D or 3D, holds no real numbers, or its affine is not finite or singular.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> from samreg.spatial.adapters import from_nibabel
    >>> scan = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.diag([2, 2, 4, 1]))
    >>> from_nibabel(scan).direction.diagonal().tolist()  # RAS to LPS
    [-1.0, -1.0, 1.0]
    """
    import nibabel as nib

    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise InputError(f"{name or 'image'}: a {type(image).__name__} is no volume of voxels; give one")
    name = name or (image.get_filename() or "")
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise InputError(
            f"{name or 'image'}: shape {shape} is {len(shape)}D; select one 3D volume, for "
            "example with image.slicer[..., 0]"
        )
    if min(shape) < 1:
        raise InputError(f"{name or 'image'}: is empty, shape {shape}; give an image that has voxels")
    with reading(name or "image"):
        data = image.dataobj if hasattr(image.dataobj, "dtype") else np.asanyarray(image.dataobj)  # MINC has no type
    if data.dtype.kind not in "biuf":
        raise InputError(f"{name or 'image'}: {data.dtype} holds no real numbers; convert colours to grey")
    to_world = nifti_to_lps(image, name)
    with reading(name or "image"):
        if nib.is_proxy(data) and (getattr(data, "slope", 1), getattr(data, "inter", 0)) != (1, 0):
            data = np.asarray(data, dtype=np.float32)
        data = np.asanyarray(data)
    # a copy in native byte order: no memory map of a file that may change, and torch takes no other order
    array = np.array(data.reshape(shape).T, dtype=data.dtype.newbyteorder("="), order="C")
    return image_from_matrix(array, to_world, name=name)


def from_channels(image: Any, *, name: str = "") -> Image:
    """Return an Image from a MetaTensor of MONAI or an image of TorchIO: (channel, x, y, z) or (x, y, z), an affine.

    The affine leads to RAS mm, or to LPS mm where the MetaTensor's ``meta["space"]`` says so.

    Raises
    ------
    InputError
        When there are several channels, a batch, or less than a volume, or the affine is not finite or singular.
    """
    name = name or str(getattr(image, "path", None) or "")
    if not (hasattr(image, "affine") and hasattr(image, "shape")):
        raise InputError(f"{name or 'image'}: a {type(image).__name__} is no image; give one of its images")
    shape, affine = tuple(image.shape), np.asarray(image.affine, dtype=float)
    if affine.shape != (4, 4) or len(shape) not in (3, 4) or (len(shape) == 4 and shape[0] != 1):
        raise InputError(
            f"{name or 'image'}: a {type(image).__name__} of shape {shape}, with an affine of {affine.shape}, is not "
            "one volume of one channel, (1, x, y, z); select one, such as image[:1], or one of a batch"
        )
    meta = getattr(image, "meta", None) or {}
    to_world = _require_affine(affine, name)
    if str(getattr(meta.get("space"), "value", meta.get("space"))) != "LPS":
        to_world = _RAS_LPS @ to_world
    voxels = image.data if hasattr(image, "data") else image
    array = voxels.detach().cpu().numpy().reshape(shape[-3:])
    return image_from_matrix(np.array(array.T, order="C"), to_world, name=name)


def to_nifti_affine(grid: Grid) -> FloatArray:
    """Return the (4, 4) matrix from voxel indices (x, y, z) to RAS mm."""
    affine = np.eye(4)
    affine[: grid.ndim, : grid.ndim] = grid.index_matrix
    affine[: grid.ndim, 3] = grid.origin
    matrix: FloatArray = _RAS_LPS @ affine
    return matrix


def nifti_to_lps(image: Any, name: str = "") -> FloatArray:
    """Return the (4, 4) matrix from voxel indices (x, y, z) of a nibabel image to LPS mm.

    Where the header holds other geometries than the one used, a warning is logged.

    Raises
    ------
    InputError
        When the affine is not finite or singular.
    """
    if image.affine is None:
        raise InputError(f"{name or 'image'}: was made without an affine, which says where its voxels lie; give it one")
    affine = _require_affine(np.array(image.affine, dtype=float), name)
    if hasattr(image.header, "get_qform"):  # NIfTI
        _warn_of_other_geometries(image, name or "image")
    affine[:3] *= _unit_mm(image.header)
    matrix: FloatArray = _RAS_LPS @ affine
    return matrix


def _require_affine(affine: FloatArray, name: str) -> FloatArray:
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * np.prod(lengths):
        raise InputError(
            f"{name or 'image'}: the affine {affine[:3].round(6).tolist()} is singular or not finite; correct its "
            "header"
        )
    return affine


def _unit_mm(header: Any) -> float:
    if not hasattr(header, "get_xyzt_units"):
        return 1.0
    return _UNITS_MM.get(int(header["xyzt_units"]) % 8, 1.0)  # nibabel fails at other codes than the standard's


def _warn_of_other_geometries(image: Any, name: str) -> None:
    """Warn where a NIfTI header's sform, qform and voxel sizes place the image differently."""
    header = image.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform <= 0 and qform <= 0:
        remark(log, "%s: neither qform nor sform is set; the orientation is a guess", name)
        return
    used = f"sform (code {sform})" if sform > 0 else f"qform (code {qform})"
    sizes = np.array(header.get_zooms()[:3], dtype=float)
    lengths = np.linalg.norm(image.affine[:3, :3], axis=0)
    by_sizes = np.array(image.affine, dtype=float)
    by_sizes[:3, : len(sizes)] *= sizes / lengths[: len(sizes)]
    others = {f"voxel sizes (pixdim {sizes.round(4).tolist()})": by_sizes}
    if sform > 0 and qform > 0:
        try:
            others[f"qform (code {qform})"] = header.get_qform()
        except ValueError as error:  # no rotation
            remark(
                log, "%s: its qform is invalid (%s); the %s is used, other programs may misplace it", name, error, used
            )
    # the outermost voxel centres, whose indices are 0 or n - 1
    shape = np.array([*image.shape[:3], 1, 1][:3])
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    for what, affine in others.items():
        difference = (corners @ (affine - image.affine)[:3, :3].T + (affine - image.affine)[:3, 3]) * _unit_mm(header)
        apart = np.linalg.norm(difference, axis=1).max()
        if not apart <= _MAX_DISAGREEMENT * lengths.min() * _unit_mm(header):
            remark(
                log,
                "%s: its %s and its %s place voxels up to %.4g mm apart; the %s is used, as nibabel does, but ITK, "
                "ANTs, elastix and 3D Slicer may take the other. Write it anew with samreg.write_image before opening "
                "it there",
                name, used, what, apart, used,
            )  # fmt: skip


def to_torch(image: Image) -> Any:
    """Return the voxels as a torch tensor (z, y, x); it shares memory where the type allows."""
    import torch

    array = image.array
    array = array.astype(np.int32) if array.dtype in (np.uint16, np.uint32) else array
    return torch.from_numpy(np.ascontiguousarray(array))


def transform_to_sitk(transform: Transform) -> Any:
    """Return a SimpleITK transform, fixed to moving like ours.

    Raises
    ------
    InputError
        When a part is neither affine nor a displacement field.

    Examples
    --------
    >>> from samreg.spatial import AffineTransform
    >>> from samreg.spatial.adapters import transform_to_sitk
    >>> transform_to_sitk(AffineTransform([[1, 0], [0, 1]], [10, 0])).TransformPoint((1, 2))
    (11.0, 2.0)
    """
    import SimpleITK as sitk

    parts = [_part_to_sitk(part) for part in components(transform)]
    if len(parts) == 1:
        return parts[0]
    return sitk.CompositeTransform(parts[::-1])  # ITK applies the last one first


def transform_from_sitk(transform: Any) -> Transform:
    """Return our transform from a SimpleITK one: affine kinds, displacement fields, composites of them.

    Raises
    ------
    InputError
        For a kind that has no counterpart, such as B-splines: sample it as a displacement field.

    Examples
    --------
    >>> import SimpleITK
    >>> from samreg.spatial.adapters import transform_from_sitk
    >>> transform_from_sitk(SimpleITK.TranslationTransform(2, (10, 0))).transform_points([[1, 2]])
    array([[11.,  2.]])
    """
    import SimpleITK as sitk

    with contextlib.suppress(KeyError):  # of the kinds that SimpleITK has a class for and cannot turn to it
        transform = transform.Downcast() if hasattr(transform, "Downcast") else transform
    if isinstance(transform, sitk.CompositeTransform):
        count = transform.GetNumberOfTransforms()
        if count == 0:
            return AffineTransform.identity(transform.GetDimension())
        return compose(*(transform_from_sitk(transform.GetNthTransform(i)) for i in reversed(range(count))))
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return field_from_sitk(transform.GetDisplacementField())
    if transform.GetName() != "BSplineTransform" and transform.IsLinear():
        ndim = transform.GetDimension()
        origin = np.asarray(transform.TransformPoint([0.0] * ndim))
        columns = [np.asarray(transform.TransformPoint(list(axis))) - origin for axis in np.eye(ndim)]
        return AffineTransform(np.stack(columns, axis=1), origin)
    raise InputError(f"a {transform.GetName()} cannot be read; convert it with SimpleITK.TransformToDisplacementField")


def field_to_sitk(transform: DisplacementField, *, double: bool = False) -> Any:
    """Return the displacement field as a SimpleITK vector image, LPS mm."""
    import SimpleITK as sitk

    array = transform.displacement.astype(np.float64) if double else transform.displacement
    image = sitk.GetImageFromArray(array, isVector=True)
    _set_sitk_geometry(image, transform.grid)
    return image


def field_from_sitk(image: Any, *, name: str = "displacement field") -> DisplacementField:
    """Return a displacement field from a SimpleITK vector image whose values are LPS mm."""
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != image.GetDimension():
        raise InputError(
            f"{name}: {image.GetNumberOfComponentsPerPixel()} components in {image.GetDimension()}D; a displacement "
            "field has one for each dimension"
        )
    origin, spacing, direction = sitk_geometry(image)
    grid = Grid.make(image.GetSize()[::-1], origin=origin, spacing=spacing, direction=direction)
    return DisplacementField(sitk.GetArrayFromImage(image).astype(np.float32), grid)


def _part_to_sitk(part: Transform) -> Any:
    import SimpleITK as sitk

    if isinstance(part, AffineTransform):
        result = sitk.AffineTransform(part.ndim)
        result.SetMatrix(part.matrix.ravel().tolist())
        result.SetTranslation(part.translation.tolist())
        return result
    if isinstance(part, (DisplacementField, InverseField)):
        field = part.field if isinstance(part, InverseField) else part
        return sitk.DisplacementFieldTransform(field_to_sitk(field, double=True))
    raise InputError(f"a {type(part).__name__} has no SimpleITK counterpart; sample it as a displacement field")


def _set_sitk_geometry(image: Any, grid: Grid) -> None:
    image.SetOrigin(grid.origin.tolist())
    image.SetSpacing(grid.spacing.tolist())
    image.SetDirection(grid.direction.ravel().tolist())


def sitk_geometry(image: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return origin (d,), spacing (d,) and direction (d, d) of a SimpleITK image, or of a reader of one."""
    origin = np.asarray(image.GetOrigin(), dtype=np.float64)
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(len(origin), len(origin))
    return origin, np.asarray(image.GetSpacing(), dtype=np.float64), direction


def _require_image(image: Any, attribute: str, name: str) -> None:
    """Refuse what another package has beside images, by an attribute that its images alone have."""
    if not hasattr(image, attribute):
        package = type(image).__module__.split(".")[0]
        raise InputError(f"{name or 'image'}: a {type(image).__name__} of {package} is no image; give an image")


def _require_scalar(components: int, name: str) -> None:
    if components != 1:
        raise InputError(
            f"{name or 'image'}: has {components} components (colour, vectors); convert it to one, greyscale"
        )


def _as_one_of(array: np.ndarray[Any, Any], types: tuple[type[np.generic], ...]) -> np.ndarray[Any, Any]:
    """Return an array as its own type, or the first of others that holds all of its values."""
    if array.dtype in types:
        return array
    kind = next((t for t in types if np.can_cast(array.dtype, t, "safe")), types[-1])
    return array.astype(kind)


def _import_itk() -> Any:
    try:
        import itk
    except ImportError as error:
        raise MissingExtraError('the package itk is needed: pip install "samreg[elastix]"') from error
    return itk
