"""Synthetic chest CTs, called phantoms, with exactly known correspondence between any two of them.

Every subject is the one canonical chest of :mod:`samreg.phantoms.anatomy`, carried into the scanner by a smooth
map of its own: size, pose, slouch, breathing and random shape. The map is a chain of affine couplings (Dinh et
al., Density estimation using Real NVP, ICLR 2017, section 3.2), each with an inverse in closed form, so that

    fixed subject -> canonical -> moving subject

is a diffeomorphism known to rounding error at every point. The scans differ as scans do: field of view, voxel
size, orientation, contrast agent, sharpness, noise and the table beneath.

Phantoms need no data and no licence; they show that a pipeline works. What a method does on them says little
about its accuracy in patients: anatomy is the same in all subjects, and bones bend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError, require_number, require_seed
from samreg.phantoms.anatomy import LABELS, LANDMARK_NAMES, Anatomy, canonical_anatomy
from samreg.phantoms.coupling import Coupling, Waves
from samreg.spatial import AffineTransform, Grid, Image, Points, Transform, compose
from samreg.spatial.grid import FloatArray

__all__ = [
    "LABELS",
    "LANDMARK_NAMES",
    "Coupling",
    "Phantom",
    "PhantomPair",
    "Waves",
    "correspondence",
    "make_phantom",
    "phantom_pair",
]

_MAX_VOXELS_AT_ONCE = 400_000  # to bound memory
_BLUR_REACH = 2.5  # of the point spread function, in sigma
_MIN_LEVEL_MM, _MAX_LEVEL_MM = -210.0, 160.0  # canonical z that can be scanned
_MIN_FIELD_OF_VIEW_MM, _MIN_SPACING_MM = 20.0, 0.5

# Grid axes in LPS of the scanners: plain, and as NIfTI files often are stored; all right-handed.
_ORIENTATIONS = tuple(np.diag(signs).astype(float) for signs in ((1, 1, 1), (-1, -1, 1), (1, -1, -1), (-1, 1, -1)))


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic subject and its scan.

    Parameters
    ----------
    subject
        Its number.
    image
        int16, HU.
    labels
        uint8 on the same grid, values of :data:`LABELS`.
    landmarks
        Those of :data:`LANDMARK_NAMES` inside the field of view, LPS mm, in that order.
    to_canonical, from_canonical
        Between the subject's world and the canonical frame; exact inverses of each other.
    contrast_hu
        HU that the contrast agent adds to arterial blood; 0 for a plain scan.
    """

    subject: int
    image: Image
    labels: Image
    landmarks: Points
    to_canonical: Transform
    from_canonical: Transform
    contrast_hu: float


@dataclass(frozen=True, eq=False)
class PhantomPair:
    """Two phantoms to register.

    Parameters
    ----------
    fixed, moving
        The subjects.
    transform
        The true map from fixed to moving, LPS mm, exact at every point.
    fixed_landmarks, moving_landmarks
        The landmarks that both fields of view contain, in the same order, LPS mm.
    """

    fixed: Phantom
    moving: Phantom
    transform: Transform
    fixed_landmarks: Points
    moving_landmarks: Points


def make_phantom(
    subject: int,
    *,
    spacing: float | tuple[float, float, float] | None = None,
    field_of_view: tuple[float, float] | None = None,
    seed: int = 0,
) -> Phantom:
    """Make one synthetic chest CT; the same arguments give the same voxels.

    Parameters
    ----------
    subject
        Number of the subject in the population, 0 or above; it decides anatomy and scanner.
    spacing
        Voxel size in mm, one number or (x, y, z); unless given, the scanner's own, between 2.6 and 3.4 mm.
    field_of_view
        Lowest and highest level scanned, mm above the carina of the canonical chest, within -210 and 160:
        (-95, 75) holds the lungs; unless given, the scanner's own, which may cut lung bases or shoulders.
    seed
        Chooses another population.

    Raises
    ------
    InputError
        When an option is no number, or out of range.

    Examples
    --------
    >>> from samreg.phantoms import make_phantom
    >>> phantom = make_phantom(3, spacing=12.0, field_of_view=(-95, 75))
    >>> phantom.image.spacing.tolist(), phantom.landmarks.names[0]
    ([12.0, 12.0, 12.0], 'carina')
    """
    subject = require_number("subject", subject, minimum=0, integer=True)
    seed = require_seed(seed)
    # Independent streams, so that another voxel size or field of view leaves the anatomy as it is.
    shape_random, scan_random, noise_random = (np.random.default_rng([seed, subject, i]) for i in range(3))
    from_canonical, to_canonical = _subject_map(shape_random)
    scan = _draw_scan(scan_random)
    voxel_size = scan.spacing if spacing is None else _checked_spacing(spacing)
    levels = scan.field_of_view if field_of_view is None else _checked_field_of_view(field_of_view)
    anatomy = canonical_anatomy()
    grid = _scan_grid(from_canonical, voxel_size, *levels, scan.direction)
    array, labels = _pull_back(anatomy, grid, to_canonical, scan)
    _lay_on_table(array, labels, grid, scan)
    name = f"phantom-{subject:03d}"
    landmarks = Points(from_canonical.transform_points(anatomy.landmarks.positions), LANDMARK_NAMES)
    return Phantom(
        subject=subject,
        image=Image(_with_noise(array, scan.noise_hu, noise_random), grid, name),
        labels=Image(labels, grid, f"{name} labels"),
        landmarks=landmarks.take(grid.contains(landmarks.positions)),
        to_canonical=to_canonical,
        from_canonical=from_canonical,
        contrast_hu=scan.contrast_hu,
    )


def _checked_spacing(spacing: object) -> FloatArray:
    try:
        sizes = np.broadcast_to(np.asarray(spacing, dtype=float), 3)
    except (TypeError, ValueError):
        sizes = np.zeros(3)
    if not ((sizes >= _MIN_SPACING_MM) & np.isfinite(sizes)).all():
        raise InputError(f"spacing must be one number or (x, y, z), {_MIN_SPACING_MM:g} mm or more, got {spacing!r}")
    return sizes


def _checked_field_of_view(levels: object) -> tuple[float, float]:
    try:
        low, high = np.asarray(levels, dtype=float)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (low >= _MIN_LEVEL_MM and low + _MIN_FIELD_OF_VIEW_MM < high <= _MAX_LEVEL_MM):
        raise InputError(
            f"field_of_view must be (lowest, highest) level, more than {_MIN_FIELD_OF_VIEW_MM:g} mm apart within "
            f"{_MIN_LEVEL_MM:g} and {_MAX_LEVEL_MM:g} mm, got {levels!r}"
        )
    return float(low), float(high)


def phantom_pair(
    fixed: int = 1,
    moving: int = 2,
    *,
    spacing: float | tuple[float, float, float] | None = None,
    field_of_view: tuple[float, float] | None = None,
    seed: int = 0,
) -> PhantomPair:
    """Make two phantoms and the truth between them.

    Parameters
    ----------
    fixed, moving
        Numbers of the subjects.
    spacing, field_of_view, seed
        As in :func:`make_phantom`, of both.

    Raises
    ------
    InputError
        As :func:`make_phantom` does.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.phantoms import phantom_pair
    >>> pair = phantom_pair(1, 2, spacing=12.0, field_of_view=(-95, 75))
    >>> mapped = pair.transform.transform_points(pair.fixed_landmarks.positions)
    >>> bool(np.allclose(mapped, pair.moving_landmarks.positions))
    True
    """
    first, second = (
        make_phantom(subject, spacing=spacing, field_of_view=field_of_view, seed=seed) for subject in (fixed, moving)
    )
    shared = [name for name in first.landmarks.names if name in second.landmarks.names]
    return PhantomPair(
        fixed=first,
        moving=second,
        transform=correspondence(first, second),
        fixed_landmarks=first.landmarks.named(shared),
        moving_landmarks=second.landmarks.named(shared),
    )


def correspondence(fixed: Phantom, moving: Phantom) -> Transform:
    """Return the true map from the fixed to the moving subject, LPS mm, exact at every point of the body.

    Examples
    --------
    >>> from samreg.phantoms import correspondence, make_phantom
    >>> phantom = make_phantom(3, spacing=12.0)
    >>> correspondence(phantom, phantom).transform_points([[10.0, 20.0, 30.0]]).round(6).tolist()
    [[10.0, 20.0, 30.0]]
    """
    return compose(fixed.to_canonical, moving.from_canonical)


# --- the subject ------------------------------------------------------------------------------------------------


def _random_waves(random: np.random.Generator, count: int, amplitude: float) -> Waves:
    """Waves of 180 to 360 mm length in random directions."""
    angle = random.uniform(0, 2 * np.pi, count)
    number = 2 * np.pi / random.uniform(180, 360, count)
    return Waves(
        number[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1),
        random.uniform(0, 2 * np.pi, count),
        amplitude * random.uniform(0.5, 1, count),
    )


def _subject_map(random: np.random.Generator) -> tuple[Transform, Transform]:
    """Return the map from the canonical frame to a subject's world, and its inverse."""
    from scipy.spatial.transform import Rotation

    none = Waves(np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    # Breathing moves the diaphragm by up to 15 mm below the fixed apices, more under the lungs than between.
    breath = random.uniform(-0.1, 0.1)
    depth = Waves(np.array([[0, 0], [2 * np.pi / 140, 0]]), np.array([0, np.pi]), breath * np.array([0.8, 0.2]))
    # A slouch bends the trunk in the sagittal plane: y moves as a long wave of z (the pair (u, v) is (x, z)).
    slouch = Waves(np.array([[0, 2 * np.pi / 560]]), random.uniform(0, 2 * np.pi, 1), random.uniform(4, 16, 1))
    couplings = [Coupling(2, none, depth, center=65.0), Coupling(1, slouch, none)]
    for _ in range(2):
        couplings += [
            Coupling(axis, _random_waves(random, 3, 3.6), _random_waves(random, 2, 0.035)) for axis in (0, 1, 2)
        ]
    size = random.uniform(0.93, 1.07) * random.uniform(0.95, 1.07, 3)
    pitch, roll, yaw = random.uniform((-8, -5, -8), (8, 5, 8))  # degrees
    position = random.uniform((-25, -190, -700), (25, -90, 100))  # the table's height and the scanner's zero
    pose = AffineTransform(Rotation.from_euler("xyz", (pitch, roll, yaw), degrees=True).as_matrix() * size, position)
    parts: list[Coupling | AffineTransform] = [*couplings, pose]
    return compose(*parts), compose(*(part.inverse() for part in reversed(parts)))


# --- the scan ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Scan:
    """How a subject is scanned."""

    spacing: FloatArray
    field_of_view: tuple[float, float]
    direction: FloatArray
    contrast_hu: float
    lung_hu: float  # added to the lung, which is denser the less it holds
    blur: float  # sigma of the point spread function, in voxels
    noise_hu: float
    table_gap: float
    table_shift: float


def _draw_scan(random: np.random.Generator) -> _Scan:
    from scipy.spatial.transform import Rotation

    in_plane, slices = random.uniform(2.6, 3.0), random.uniform(2.6, 3.4)
    tilt = random.choice([0.0, 0.0, 1.0]) * random.uniform(-5, 5)  # degrees about x
    field_of_view = random.uniform(-205, -110), random.uniform(66, 120)
    axes = _ORIENTATIONS[random.integers(len(_ORIENTATIONS))]
    return _Scan(
        spacing=np.array([in_plane, in_plane, slices]),
        field_of_view=field_of_view,
        direction=Rotation.from_euler("x", tilt, degrees=True).as_matrix() @ axes,
        contrast_hu=float(random.choice([0.0, 1.0, 1.0]) * random.uniform(80, 240)),
        lung_hu=float(random.uniform(-30, 50)),
        blur=float(random.uniform(0.3, 0.5)),
        noise_hu=float(random.uniform(8, 24)),
        table_gap=float(random.uniform(0, 6)),
        table_shift=float(random.uniform(-15, 15)),
    )


def _scan_grid(from_canonical: Transform, spacing: FloatArray, low: float, high: float, direction: FloatArray) -> Grid:
    """Return the grid that holds the trunk between two levels; shoulders and arms may stick out sideways."""
    levels = np.linspace(low, high, 9)
    outline = np.array([(x, y, z) for z in levels for x in (-166, 0, 166) for y in (-126, -10, 106)])
    axial = np.array([(0, y, z) for z in (low, high) for y in (-60, 0, 60)])
    across = from_canonical.transform_points(outline) @ direction  # along the grid's axes
    along = from_canonical.transform_points(axial) @ direction
    first, last = across.min(axis=0) - 8, across.max(axis=0) + 8
    first[2], last[2] = along[:, 2].min(), along[:, 2].max()
    posterior = direction[1, 1]  # room for the table
    first[1] -= 22 * (posterior < 0)
    last[1] += 22 * (posterior > 0)
    size = np.maximum(1, np.round((last - first) / spacing).astype(int))
    origin = direction @ ((first + last) / 2 - spacing * (size - 1) / 2)
    return Grid(tuple(size[::-1]), origin, spacing, direction)


def _pull_back(
    anatomy: Anatomy, grid: Grid, to_canonical: Transform, scan: _Scan
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Sample the canonical chest at a scan's voxels: HU without noise, and labels."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    thickness = max(1, _MAX_VOXELS_AT_ONCE // int(np.prod(grid.shape[1:])))
    slabs = [slice(start, min(start + thickness, grid.shape[0])) for start in range(0, grid.shape[0], thickness)]
    indices = []
    for slab in slabs:
        origin = grid.origin + slab.start * grid.index_matrix[:, 2]
        part = Grid((slab.stop - slab.start, *grid.shape[1:]), origin, grid.spacing, grid.direction)
        points = to_canonical.transform_points(part.world_points().reshape(-1, 3))
        indices.append(np.ascontiguousarray(anatomy.grid.world_to_index(points)[:, ::-1].T))
    sigma = (scan.blur * np.abs(grid.direction @ np.diag(grid.spacing)).max(axis=1) / anatomy.grid.spacing)[::-1]
    box = _box_around(indices, np.ceil(_BLUR_REACH * sigma) + 1, anatomy.grid.shape)  # all else goes unseen
    volume = anatomy.hu[box] + scan.contrast_hu * anatomy.enhancement[box]
    volume = gaussian_filter(volume, sigma, mode="nearest", truncate=_BLUR_REACH)
    array = np.empty(grid.shape, dtype=np.float32)
    labels = np.empty(grid.shape, dtype=np.uint8)
    for slab, index in zip(slabs, indices, strict=True):
        shape = array[slab].shape
        inside = index - [[part.start] for part in box]
        array[slab] = map_coordinates(volume, inside, order=1, mode="nearest").reshape(shape)
        labels[slab] = map_coordinates(anatomy.labels, index, order=0, mode="nearest").reshape(shape)
    lung = (labels == LABELS["right_lung"]) | (labels == LABELS["left_lung"])
    array[lung] += scan.lung_hu
    return array, labels


def _box_around(indices: Sequence[FloatArray], margin: FloatArray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the box of an array that holds all of the indices (3, N), and a margin (3,) around them."""
    first = np.min([index.min(axis=1) for index in indices], axis=0) - margin
    last = np.max([index.max(axis=1) for index in indices], axis=0) + margin
    limits = np.array(shape) - 1
    first, last = (np.clip(corner, 0, limits).astype(int) for corner in (np.floor(first), np.ceil(last)))
    return tuple(slice(low, high + 1) for low, high in zip(first.tolist(), last.tolist(), strict=True))


def _lay_on_table(array: NDArray[np.float32], labels: NDArray[np.uint8], grid: Grid, scan: _Scan) -> None:
    """Paint a curved scanner table under the body: a carbon shell 3 mm thick around foam."""
    points = grid.world_points()
    body = labels != LABELS["outside"]
    x = points[..., 0] - grid.center[0] - scan.table_shift
    top = points[..., 1][body].max() + scan.table_gap - x * x / 1500
    depth = points[..., 1] - top  # below the table's surface
    pixel = float(grid.spacing.max())
    slab = np.maximum(np.abs(depth - 14) - 14, np.abs(x) - 205)
    for distance, hu in ((slab, 60.0), (slab + 3, -930.0)):
        cover = np.where(body, 0, np.clip(0.5 - distance / pixel, 0, 1)).astype(np.float32)
        array += cover * (hu - array)


def _with_noise(array: NDArray[np.float32], sigma: float, random: np.random.Generator) -> NDArray[np.int16]:
    """Add Gaussian noise correlated over neighbouring voxels, and round as a scanner does."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(random.standard_normal(array.shape, dtype=np.float32), 0.6)
    noise *= sigma / noise.std()
    hu: NDArray[np.int16] = np.clip(np.round(array + noise), -1024, 3071).astype(np.int16)
    return hu
