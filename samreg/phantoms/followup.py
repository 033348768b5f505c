"""Follow-up scans simulated from one real scan: lesions whose place and size in both are known exactly.

Lesions, ellipsoids of soft tissue, are painted into lungs and soft tissue. The follow-up shows the same body through a
smooth random map with an inverse in closed form (:class:`samreg.phantoms.coupling.Coupling`: breathing and waves),
turned, shifted and cropped, with the lesions grown or shrunk, another contrast curve, sharpness, voxel size and noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.brief import brief_repr
from samreg.errors import InputError, require_number, require_seed
from samreg.phantoms.coupling import Coupling, Waves
from samreg.spatial import AffineTransform, Grid, Image, Points, Transform, compose, resample_spacing
from samreg.spatial.grid import FloatArray

_EDGE_HALF_WIDTH_MM = 0.8  # of a lesion's soft border
_RADIUS_MM = (4.0, 14.0)
_GROWTH_FACTOR = (0.65, 1.55)
# HU of the tissue lesions are put into, the share of them, and their own HU
_SITES = (((-980.0, -750.0), 0.6, (-40.0, 60.0)), ((-50.0, 150.0), 0.4, (-20.0, 130.0)))
_MIN_GAP_MM = 15.0  # of other tissue between lesions
_MIN_DEPTH_MM = 20.0  # of a lesion's centre below the border of either scan
_SEARCH_SPACING_MM = 4.0  # of the image in which room for lesions is sought


@dataclass(frozen=True, eq=False)
class Lesions:
    """N ellipsoids in the baseline, and how they change.

    Parameters
    ----------
    centers
        (N, 3) LPS mm.
    radii
        (N, 3) half axes along x, y, z, mm.
    hu
        (N,) their intensity.
    growth
        (N,) factor on every axis until the follow-up, in the baseline's frame.
    """

    centers: FloatArray
    radii: FloatArray
    hu: FloatArray
    growth: FloatArray

    __repr__ = brief_repr

    def __len__(self) -> int:
        return len(self.centers)


@dataclass(frozen=True, eq=False)
class FollowUp:
    """A simulated pair of visits.

    Parameters
    ----------
    baseline, followup
        The scans, int16, HU.
    labels
        On the baseline's grid: lesion i has label i + 1.
    lesions
        As painted.
    centers
        (N, 3) the lesions' true centres in the follow-up, LPS mm.
    volumes
        (N, 2) true volumes in baseline and follow-up, mm^3.
    transform, inverse
        Baseline to follow-up points, LPS mm, and back; exact inverses of each other.
    """

    baseline: Image
    followup: Image
    labels: Image
    lesions: Lesions
    centers: FloatArray
    volumes: FloatArray
    transform: Transform
    inverse: Transform

    __repr__ = brief_repr

    @property
    def points(self) -> Points:
        """The lesions' centres in the baseline, named as their labels, LPS mm."""
        return Points(self.lesions.centers)


def simulate_followup(image: Image, *, lesions: int = 8, strength: float = 1.0, seed: int = 0) -> FollowUp:
    """Paint lesions into a CT and simulate a second visit.

    Parameters
    ----------
    image
        CT in HU.
    lesions
        How many, of 4 to 14 mm radius; fewer where there is no room for all.
    strength
        How much deformation, turning, contrast and noise change, 0 to 3; at 1 by up to about 15 mm, 8 degrees, 80 HU
        and 30 HU.
    seed
        Of everything drawn.

    Raises
    ------
    InputError
        When an option is out of range, the image is not 3D or not finite, or there is no room for a lesion.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.phantoms import simulate_followup
    >>> from samreg.spatial import Image
    >>> scan = np.full((40, 40, 40), -1000.0)
    >>> scan[2:-2, 2:-2, 2:-2] = 40.0  # a box of soft tissue
    >>> pair = simulate_followup(Image.from_array(scan, spacing=(4, 4, 4)), lesions=5, seed=1)
    >>> len(pair.lesions), pair.volumes.shape
    (2, (2, 2))
    >>> bool(np.allclose(pair.transform.transform_points(pair.points.positions), pair.centers))
    True
    """
    from scipy.ndimage import map_coordinates

    if image.ndim != 3:
        raise InputError(f"{image.label} is {image.ndim}D; lesions are painted into a 3D CT")
    if not np.isfinite(image.array).all():
        raise InputError(f"{image.label} holds NaN or infinity; replace them, padding by -1024 HU")
    count = require_number("lesions", lesions, minimum=1, integer=True)
    strength = require_number("strength", strength, minimum=0, maximum=3)
    random = np.random.default_rng(require_seed(seed))
    placed = _place(image, count, random)
    forward, backward = _second_visit(image.grid, strength, random)
    centers = forward.transform_points(placed.centers)
    grid = _second_grid(image.grid, forward, centers, random)
    labels = np.zeros(image.shape, np.int16)
    baseline = image.array.astype(np.float32)
    _paint(baseline, image.grid.world_points(), image.grid.world_to_index(placed.centers), placed, placed.radii, labels)
    # painted at the follow-up's own voxels carried back, so that centres and sizes stay exact
    carried = backward.transform_points(grid.world_points().reshape(-1, 3)).reshape(*grid.shape, 3)
    index = np.moveaxis(image.grid.world_to_index(carried.reshape(-1, 3)).reshape(carried.shape)[..., ::-1], -1, 0)
    followup = map_coordinates(image.array.astype(np.float32), index, order=1, mode="constant", cval=-1024.0)
    _paint(followup, carried, grid.world_to_index(centers), placed, placed.radii * placed.growth[:, None])
    followup = _rescanned(followup, strength, random)
    volumes = 4 / 3 * np.pi * placed.radii.prod(axis=1)
    return FollowUp(
        Image(_hu(baseline), image.grid, image.name),
        Image(_hu(followup), grid, f"{image.name} follow-up"),
        Image(labels, image.grid, f"{image.name} lesions"),
        placed,
        centers,
        np.stack([volumes, volumes * placed.growth**3 * np.linalg.det(forward.jacobian(placed.centers))], axis=1),
        forward,
        backward,
    )


def _place(image: Image, count: int, random: np.random.Generator) -> Lesions:
    """Draw lesions that lie inside lung or soft tissue, apart from each other and from the border."""
    from scipy.ndimage import distance_transform_edt

    from samreg.embedding.body import body_mask

    coarse = resample_spacing(image, _SEARCH_SPACING_MM)
    body, points = body_mask(coarse), coarse.grid.world_points()
    free = (coarse.grid.depth(points.reshape(-1, 3)) > _MIN_DEPTH_MM).reshape(coarse.shape)
    rows = []
    for (low, high), share, hu in _SITES:
        tissue = (coarse.array > low) & (coarse.array < high) & body
        room = distance_transform_edt(tissue, sampling=coarse.spacing[::-1])
        for _ in range(round(count * share)):
            radius = random.uniform(*_RADIUS_MM)
            where = points[(room > min(radius, 0.7 * room.max())) & free]
            if len(where) == 0 or room.max() < _RADIUS_MM[0]:
                break
            center = where[random.integers(len(where))] + random.uniform(-2, 2, 3)
            free &= np.linalg.norm(points - center, axis=-1) > 2 * _RADIUS_MM[1] + _MIN_GAP_MM
            axes = radius * np.exp(random.uniform(-0.2, 0.2, 3))
            rows.append((center, axes, random.uniform(*hu), np.exp(random.uniform(*np.log(_GROWTH_FACTOR)))))
    if not rows:
        raise InputError(f"{image.label} has no room for a lesion; give a CT that shows more of the body")
    return Lesions(*(np.array(column) for column in zip(*rows, strict=True)))


def _paint(
    array: NDArray[np.float32],
    points: FloatArray,
    index: FloatArray,
    lesions: Lesions,
    radii: FloatArray,
    labels: NDArray[np.int16] | None = None,
) -> None:
    """Paint lesions of half axes ``radii`` (N, 3) into an array whose voxels lie at ``points`` of the baseline.

    ``points`` is (*shape, 3), LPS mm; ``index`` (N, 3) is where the array has the centres.
    """
    for i, (center, axes) in enumerate(zip(lesions.centers, radii, strict=True)):
        reach = int(2.5 * axes.max()) + 6  # voxels, of more than 1 mm and hardly stretched
        middle = np.rint(index[i]).astype(int)[::-1]
        box = tuple(slice(max(0, n - reach), n + reach) for n in middle)
        scaled = np.linalg.norm((points[box] - center) / axes, axis=-1)
        outside = (scaled - 1) * axes.mean()  # mm beyond the surface, nearly
        cover = 1 / (1 + np.exp(np.clip(outside / (_EDGE_HALF_WIDTH_MM / 2), -30, 30)))
        array[box] += cover * (lesions.hu[i] - array[box])
        if labels is not None:
            labels[box][scaled < 1] = i + 1


def _second_visit(grid: Grid, strength: float, random: np.random.Generator) -> tuple[Transform, Transform]:
    """Draw the map from baseline to follow-up, and its inverse."""
    from scipy.spatial.transform import Rotation

    middle = grid.center
    none = Waves(np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    breath = Waves(
        np.array([[0, 0], [2 * np.pi / 200, 0]]),
        random.uniform(0, 2 * np.pi, 2),
        strength * random.uniform(-0.06, 0.06) * np.ones(2),
    )
    couplings: list[Coupling | AffineTransform] = [Coupling(2, none, breath, center=middle[2])]
    for axis in (0, 1, 2):
        length, angle = random.uniform(120, 300, 3), random.uniform(0, 2 * np.pi, 3)
        number = (2 * np.pi / length)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        waves = Waves(number, random.uniform(0, 2 * np.pi, 3), strength * random.uniform(1, 4, 3))
        couplings.append(Coupling(axis, waves, none))
    turn = Rotation.from_euler("xyz", strength * random.uniform((-6, -4, -8), (6, 4, 8)), degrees=True)
    pose = AffineTransform.about(middle, turn.as_matrix() * random.uniform(0.98, 1.02), random.uniform(-60, 60, 3))
    parts = [*couplings, pose]
    return compose(*parts), compose(*(part.inverse() for part in reversed(parts)))


def _second_grid(grid: Grid, forward: Transform, centers: FloatArray, random: np.random.Generator) -> Grid:
    """Return the follow-up's grid: other voxels, and a field of view that is cut at both ends."""
    faces = grid.index_to_world(np.stack(np.meshgrid(*[(-0.5, n / 2, n - 0.5) for n in grid.size]), -1).reshape(-1, 3))
    moved = forward.transform_points(faces)
    low, high = np.percentile(moved, 10, axis=0), np.percentile(moved, 90, axis=0)
    cut = random.uniform(0, 0.15, 2) * (high - low)[2]
    low[2], high[2] = low[2] + cut[0], high[2] - cut[1]
    low = np.minimum(low, centers.min(axis=0) - _MIN_DEPTH_MM)
    high = np.maximum(high, centers.max(axis=0) + _MIN_DEPTH_MM)
    voxel = np.array([*[random.uniform(1.5, 2.2)] * 2, random.uniform(1.5, 3.5)])
    return Grid.make(np.ceil((high - low) / voxel).astype(int)[::-1], origin=low, spacing=voxel)


def _rescanned(array: NDArray[np.float32], strength: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Change contrast by a monotone curve, then sharpness, then add noise."""
    from scipy.ndimage import gaussian_filter

    at = np.array([-1024.0, -900.0, -500.0, -100.0, 40.0, 150.0, 400.0, 3071.0])
    change = np.array([0, *random.uniform(-40, 40, 2), *random.uniform(-15, 15, 2), *random.uniform(-40, 80, 2), 0])
    array = np.interp(array, at, np.maximum.accumulate(at + strength * change)).astype(np.float32)
    array = gaussian_filter(array, random.uniform(0.2, 0.5))
    noise = gaussian_filter(random.standard_normal(array.shape, dtype=np.float32), 0.6)
    noisy: NDArray[np.float32] = array + noise * np.float32(strength * random.uniform(10, 30) / noise.std())
    return noisy


def _hu(array: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(array), -1024, 3071).astype(np.int16)
