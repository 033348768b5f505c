"""Where things are: images, points, transforms; reading, writing and converting them."""

from samreg.spatial.displacement import (
    DisplacementField,
    InverseField,
    invert,
    jacobian_determinant,
    sample_displacement,
)
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, as_points
from samreg.spatial.io_dicom_objects import warp_dicom_structures, write_dicom_registration, write_dicom_segmentation
from samreg.spatial.io_images import find_images, read_image, write_image
from samreg.spatial.io_points import find_points, read_points, write_points
from samreg.spatial.io_segmentations import Segment, read_segments, write_segmentation
from samreg.spatial.io_transforms import as_transform, read_transform, write_transform
from samreg.spatial.points import Points
from samreg.spatial.resample import resample, resample_spacing
from samreg.spatial.standard import as_mask, sample_mask
from samreg.spatial.transforms import (
    AffineTransform,
    CompositeTransform,
    InverseResidual,
    Transform,
    compose,
    inverse_residual,
)

__all__ = [
    "AffineTransform",
    "CompositeTransform",
    "DisplacementField",
    "Grid",
    "Image",
    "InverseField",
    "InverseResidual",
    "Points",
    "Segment",
    "Transform",
    "as_image",
    "as_mask",
    "as_points",
    "as_transform",
    "compose",
    "find_images",
    "find_points",
    "inverse_residual",
    "invert",
    "jacobian_determinant",
    "read_image",
    "read_points",
    "read_segments",
    "read_transform",
    "resample",
    "resample_spacing",
    "sample_displacement",
    "sample_mask",
    "warp_dicom_structures",
    "write_dicom_registration",
    "write_dicom_segmentation",
    "write_image",
    "write_points",
    "write_segmentation",
    "write_transform",
]
