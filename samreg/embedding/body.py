"""Where the body is in a CT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.standard import sample_mask, standardised

_MIN_PART_SHARE = 0.1  # of the largest part's voxels
_BODY_SPACING_MM = 4.0  # mm; the mask is computed at this voxel size
_TISSUE_HU = -500.0  # air and lung lie below, every other tissue above
_OUTSIDE_HU = -930.0  # median of the air around a body lies below; of lung, emphysema included, above
_BENEATH_HU = -880.0  # the same for air with a table in it, which spans the image from left to right


def body_mask(image: Image) -> NDArray[np.bool_]:
    """Find the body: inside the skin, lungs and bowel gas included, the table left out.

    Works on partial views: air is outside only where it reaches the border of its axial slice and is as thin
    as air is, so that lungs cut by the border stay inside.

    Parameters
    ----------
    image
        3D CT in Hounsfield units.

    Returns
    -------
    ndarray of bool
        On the grid of ``image``; all False where there is nothing but air.

    Examples
    --------
    >>> from samreg.spatial import Image
    >>> hu = np.full((10, 20, 20), -1000, np.int16)
    >>> hu[:, 5:15, 5:15] = 40
    >>> body = body_mask(Image.from_array(hu, spacing=4))
    >>> bool(body[5, 10, 10]), bool(body[5, 2, 2])
    (True, False)
    """
    coarse = standardised(image, max(_BODY_SPACING_MM, float(image.spacing.min())))
    return mask_on_finer(_inside_body(coarse.array), coarse.grid, image.grid)


def mask_on_finer(inside: NDArray[np.bool_], coarse: Grid, fine: Grid) -> NDArray[np.bool_]:
    """Sample a mask on a finer grid of the same view; a coarse grid that ends a little short of it is continued."""
    wider = coarse.padded(float(coarse.spacing.min()))  # by one voxel
    return sample_mask(Image(np.pad(inside, 1, mode="edge"), wider), fine)


def _inside_body(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Body mask of an axis-aligned volume (z, y, x) of about 4 mm voxels."""
    from scipy import ndimage

    tissue = _large_parts(hu > _TISSUE_HU)
    in_slice = np.zeros((3, 3, 3), bool)
    in_slice[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(~tissue, structure=in_slice)
    if count == 0:
        return tissue
    at_border = np.zeros(count + 1, bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        at_border[edge.ravel()] = True
    spans = np.isin(np.arange(count + 1), np.intersect1d(labels[:, :, 0], labels[:, :, -1]))
    at_border[0] = False  # tissue
    asked, outside = np.flatnonzero(at_border), at_border.copy()
    if not asked.size:  # a crop within the body, or a background of 0
        return np.ones_like(tissue)
    voxels = at_border[labels]  # of these alone, as a median sorts all it is given
    median = np.asarray(ndimage.median(hu[voxels], labels[voxels], asked))
    outside[asked] = median < np.where(spans[asked], _BENEATH_HU, _OUTSIDE_HU)
    body: NDArray[np.bool_] = ~outside[labels]
    return body


def _large_parts(tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Open by one voxel, which cuts the table off, and keep parts of at least a tenth of the largest."""
    from scipy import ndimage

    # edges are repeated outwards so that tissue cut by the border is not eroded there
    padded = np.pad(tissue, 1, mode="edge")
    eroded = ndimage.binary_erosion(padded, border_value=1)
    labels, count = ndimage.label(eroded)
    if count == 0:
        return tissue
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = (sizes >= _MIN_PART_SHARE * sizes.max())[labels]
    parts: NDArray[np.bool_] = (ndimage.binary_dilation(large) & padded)[1:-1, 1:-1, 1:-1]
    return parts
