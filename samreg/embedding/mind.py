"""A descriptor that needs no weights: MIND for detail, tissues around and place in the body beyond that.

Local part, 4 mm grid: MIND-SSC at 4, 8 and 16 mm. Global part, 8 mm grid: the tissue mixture in cells around
the voxel, near cells small and far cells large, and the position relative to the body's outline and the
lungs. All of it is made so that the dot product of two vectors is a sensible similarity.

References
----------
Heinrich et al., "Towards Realtime Multimodal Fusion for Image-Guided Interventions Using Self-similarities",
MICCAI 2013 (MIND-SSC).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from samreg.device import resolve_device, torch_defaults
from samreg.embedding.body import body_mask
from samreg.embedding.ct import check_ct
from samreg.embedding.embedding import Embedding
from samreg.embedding.inference import Progress
from samreg.embedding.models import EmbeddingModel, masked_body, require_body, strided_grid
from samreg.spatial.image import Image
from samreg.spatial.standard import standardised

_VERSION = 1  # to be raised with any change of the code that changes the vectors
_SPACING = 4.0  # mm, of the local grid; the global grid has twice that
_MIND_SCALES = 3  # 4, 8, 16 mm
# Share of the local vector that is the same everywhere: damps MIND, which is noisy between subjects
_LOCAL_CONSTANT = 0.5
# Hounsfield knots of the tissue classes: gas, lung, fat, soft, enhanced, bone; memberships between them are
# linear
_KNOTS = (-1000.0, -850.0, -100.0, 50.0, 250.0, 600.0)
# (pooling from the 8 mm grid, distance in mm, shells) of the cells around a voxel
_CELLS = ((1, 16.0, 1), (2, 40.0, 2), (4, 80.0, 1))
_SHARES = {"context": 0.45, "x": 0.15, "y": 0.15, "z": 0.25}
_KERNEL_MM = {"x": 40.0, "y": 40.0, "z": 50.0}
_RANGE_MM = {"x": 280.0, "y": 200.0, "z": 600.0}
# Standard deviation of the x and y coordinates of body voxels in a slice of an average torso, mm
_TORSO_STD_MM = {"x": 85.0, "y": 55.0}
_LUNG_MM = 240.0  # apex to base of average lungs


class MindModel(EmbeddingModel):
    """MIND-SSC with tissue context and body position; see the module's docstring."""

    name = "mind"
    info = {"architecture": "weight-free MIND-SSC, tissue context and body position"}  # noqa: RUF012

    @property
    def fingerprint(self) -> str:
        """Eight digits of the hash over all numbers the descriptor is made with, and the version of its code."""
        numbers = {name: value for name, value in globals().items() if name.startswith("_") and name[1:].isupper()}
        return hashlib.sha256(repr((_VERSION, sorted(numbers.items()))).encode()).hexdigest()[:8]

    @torch_defaults()
    @torch.inference_mode()
    def embed(
        self,
        image: Image,
        *,
        mask: Image | None = None,
        device: str | torch.device = "auto",
        progress: Progress | None = None,
    ) -> Embedding:
        """Embed one CT; see ``EmbeddingModel.embed``."""
        return self._embedded(image, mask, device, progress).to("cpu")

    @torch_defaults()
    @torch.inference_mode()
    def embed_on_device(
        self, image: Image, *, mask: Image | None = None, device: str | torch.device = "auto"
    ) -> Embedding:
        """Embed one CT; see ``EmbeddingModel.embed_on_device``."""
        return self._embedded(image, mask, device, None)

    def _embedded(
        self, image: Image, mask: Image | None, device: str | torch.device, progress: Progress | None
    ) -> Embedding:
        report = progress or (lambda fraction: None)
        where = resolve_device(device)
        check_ct(image)
        volume = standardised(image, _SPACING)
        inside = body_mask(volume)
        require_body(inside, image)
        report(0.2)
        hu = torch.from_numpy(volume.array).to(where)
        body = torch.from_numpy(inside).to(where)
        local = _local_part(hu)
        report(0.6)
        whereabouts = torch.from_numpy(_position(volume.array, inside, volume.grid.spacing)).to(where)
        global_ = _global_part(hu, body, whereabouts)
        report(1.0)
        return Embedding(
            local=local,
            local_grid=volume.grid,
            global_=global_,
            global_grid=strided_grid(volume.grid, global_.shape[1:], (2, 2, 2), (0.5, 0.5, 0.5)),
            body=masked_body(inside, volume.grid, mask, image),
            image_grid=image.grid,
            model=self.identity,
        )


def mind_ssc(volume: Tensor) -> Tensor:
    """MIND-SSC of a volume, patches of 3x3x3 voxels at distance 1.

    Parameters
    ----------
    volume
        (z, y, x)

    Returns
    -------
    Tensor, shape (12, z, y, x)
        Self-similarities in (0, 1], Heinrich et al. 2013, section 2.
    """
    neighbours = [step for step in np.ndindex(3, 3, 3) if np.abs(np.subtract(step, 1)).sum() == 1]
    # pairs of neighbours at distance sqrt(2): all but the opposite ones
    pairs = [
        (a, b) for i, a in enumerate(neighbours) for b in neighbours[i + 1 :] if np.square(np.subtract(a, b)).sum() == 2
    ]
    z, y, x = volume.shape
    padded = F.pad(volume[None, None], (1,) * 6, mode="replicate")[0, 0]

    def shifted(step: tuple[int, ...]) -> Tensor:
        return padded[step[0] : step[0] + z, step[1] : step[1] + y, step[2] : step[2] + x]

    distance = _box(torch.stack([torch.square(shifted(a) - shifted(b)) for a, b in pairs]))
    distance -= distance.amin(dim=0)
    variance = distance.mean(dim=0)
    mean = float(variance.mean())
    return torch.exp(-distance / variance.clamp(1e-3 * mean + 1e-6, 1e3 * mean + 1e-6))


def _box(channels: Tensor) -> Tensor:
    """Mean over 3x3x3 voxels of (C, z, y, x), the border repeated outwards."""
    for axis in (1, 2, 3):
        length = channels.shape[axis]
        inner = channels.clone()
        inner.narrow(axis, 1, length - 1).add_(channels.narrow(axis, 0, length - 1))
        inner.narrow(axis, 0, length - 1).add_(channels.narrow(axis, 1, length - 1))
        inner.narrow(axis, 0, 1).add_(channels.narrow(axis, 0, 1))
        inner.narrow(axis, length - 1, 1).add_(channels.narrow(axis, length - 1, 1))
        channels = inner.div_(3)
    return channels


def _local_part(hu: Tensor) -> Tensor:
    """(C, z, y, x) half precision unit vectors, channels last in memory."""
    hu = hu.clamp(-1000, 1000)
    parts = []
    for scale in range(_MIND_SCALES):
        features = mind_ssc(_pooled(hu[None], 2**scale)[0])
        features -= features.mean(dim=0)
        features = F.normalize(features, dim=0)
        parts.append(_unpooled(features, hu.shape, 2**scale))
    vectors = F.normalize(torch.cat(parts), dim=0) * math.sqrt(1 - _LOCAL_CONSTANT)
    constant = torch.full_like(vectors[:1], math.sqrt(_LOCAL_CONSTANT))
    return _stored(torch.cat([vectors, constant]))


def _global_part(hu: Tensor, body: Tensor, whereabouts: Tensor) -> Tensor:
    """(C, z', y', x') half precision unit vectors on the grid of half the resolution."""
    tissue = _tissue_classes(hu, body)
    context = _context(tissue)
    parts = [context * math.sqrt(_SHARES["context"])]
    coarse = _pooled(whereabouts, 2)
    for place, axis in zip(coarse, ("x", "y", "z"), strict=True):
        parts.append(_bumps(place, axis) * math.sqrt(_SHARES[axis]))
    return _stored(F.normalize(torch.cat(parts), dim=0))


def _tissue_classes(hu: Tensor, body: Tensor) -> Tensor:
    """Memberships (7, z, y, x) in the tissue classes and the outside, adding up to 1 in every voxel."""
    knots = torch.tensor(_KNOTS, device=hu.device)
    hu = hu.clamp(_KNOTS[0], _KNOTS[-1])
    classes = []
    for i, knot in enumerate(knots):
        below = (hu - knots[i - 1]) / (knot - knots[i - 1]) if i else torch.ones_like(hu)
        above = (knots[i + 1] - hu) / (knots[i + 1] - knot) if i + 1 < len(knots) else torch.ones_like(hu)
        classes.append(torch.minimum(below, above).clamp(0, 1) * body)
    return torch.stack([*classes, (~body).float()])


def _context(tissue: Tensor) -> Tensor:
    """Tissue mixtures in the cells around every voxel of the 8 mm grid, (C, z', y', x') unit vectors.

    Square roots of fractions, so that the dot product is the mean Bhattacharyya coefficient of the cells.
    """
    base = _pooled(tissue, 2)
    size = base.shape[1:]
    cells = []
    for pooling, distance, shells in _CELLS:
        smooth = _unpooled(_pooled(base, pooling), size, pooling)
        steps = round(distance / (2 * _SPACING))
        padded = F.pad(smooth[None], (steps,) * 6, mode="replicate")[0]
        for offset in np.ndindex(3, 3, 3):
            order = int(np.abs(np.subtract(offset, 1)).sum())
            # the centre, the 6 faces and, with two shells, the 8 corners
            if order > 1 and not (order == 3 and shells == 2):
                continue
            low = [o * steps for o in offset]
            cells.append(padded[:, low[0] : low[0] + size[0], low[1] : low[1] + size[1], low[2] : low[2] + size[2]])
    return torch.sqrt(torch.cat(cells).clamp_min(0) / len(cells))


def _position(hu: NDArray[np.float32], body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float32]:
    """Position relative to the body, (3, z, y, x) float32: x, y, z in mm of an average torso.

    x and y are taken from the centre of the body in the slice and scaled by its spread; z runs from the base
    (0) to the apex (``_LUNG_MM``) of the lungs where they are seen. Where they are not, z is infinite, beyond
    the range of its encoding (see ``_bumps``), which makes it say nothing.
    """
    from scipy.ndimage import gaussian_filter1d

    depth = body.shape[0]
    sigma = 24.0 / spacing[2]
    area = body.sum(axis=(1, 2)).astype(float)
    weight = gaussian_filter1d(area, sigma, mode="nearest") + 1e-6
    places = np.zeros((3, *body.shape), np.float32)
    for row, (axis, array_axis) in enumerate((("x", 2), ("y", 1))):
        n = body.shape[array_axis]
        where = (np.arange(n) - (n - 1) / 2) * spacing[row]
        profile = body.sum(axis=3 - array_axis)
        first = gaussian_filter1d(profile @ where, sigma, mode="nearest") / weight
        second = gaussian_filter1d(profile @ where**2, sigma, mode="nearest") / weight
        spread = np.sqrt(np.maximum(second - first**2, 25.0))
        relative = (where[None] - first[:, None]) / spread[:, None] * _TORSO_STD_MM[axis]
        places[row] = np.broadcast_to(np.expand_dims(relative, 3 - array_axis), body.shape)
    places[2] = _lung_height(hu, body, spacing).reshape(depth, 1, 1)
    return places


def _lung_height(hu: NDArray[np.float32], body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height over the lung base per slice, mm of average lungs, (z,); infinite where no lung end is seen."""
    lung = ((hu < -600) & (hu > -980) & body).sum(axis=(1, 2)) * spacing[0] * spacing[1]  # mm^2
    height: NDArray[np.float64] = np.arange(len(lung)) * spacing[2]
    if lung.sum() * spacing[2] < 2e5:  # mm^3; less is bowel gas or a sliver of lung
        return np.full(len(lung), np.inf)
    base, apex = map(float, height[np.flatnonzero(lung > 0.08 * lung.max())[[0, -1]]])
    full = 0.25 * lung.max()
    base_seen, apex_seen = lung[:2].mean() < full, lung[-2:].mean() < full
    if base_seen and apex_seen and apex - base > 120:
        inner = np.clip((height - base) / (apex - base), 0, 1) * _LUNG_MM
        scaled: NDArray[np.float64] = inner + np.minimum(height - base, 0) + np.maximum(height - apex, 0)
        return scaled
    if apex_seen and not base_seen:
        return height - apex + _LUNG_MM
    if base_seen:
        return height - base
    return np.full(len(lung), np.inf)


def _bumps(place: Tensor, axis: str) -> Tensor:
    """Encode a coordinate so that the dot product of two codes is a Gaussian of their distance.

    Far outside the range the code is 0.
    """
    width, reach = _KERNEL_MM[axis], _RANGE_MM[axis]
    centres = torch.arange(-reach, reach + width, width, device=place.device)
    code = torch.exp(-torch.square((place[None] - centres.view(-1, 1, 1, 1)) / width))
    # the sum of squares over centres one width apart is this constant, whatever the place
    return code / math.sqrt(math.sqrt(math.pi / 2))


def _pooled(channels: Tensor, factor: int) -> Tensor:
    """Mean over blocks of ``factor`` voxels; the border is repeated to fill the last blocks."""
    if factor == 1:
        return channels
    z, y, x = (-n % factor for n in channels.shape[1:])
    return F.avg_pool3d(F.pad(channels[None], (0, x, 0, y, 0, z), mode="replicate"), factor)[0]


def _unpooled(channels: Tensor, size: torch.Size, factor: int) -> Tensor:
    """Trilinear interpolation back from blocks of ``factor`` voxels."""
    if factor == 1:
        return channels
    fine = F.interpolate(channels[None], scale_factor=factor, mode="trilinear", align_corners=False)[0]
    return fine[:, : size[0], : size[1], : size[2]]


def _stored(vectors: Tensor) -> Tensor:
    return vectors.half().movedim(0, -1).contiguous().movedim(-1, 0)
