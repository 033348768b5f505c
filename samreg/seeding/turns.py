"""Grids, images and embeddings turned or mirrored about a point of the world, and the words that describe it.

A turn is an orthogonal matrix (d, d): a rotation, a reflection, or one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from samreg.embedding.embedding import Embedding
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.transforms import AffineTransform

# ends of the axes x, y(, z), by number of dimensions: of a picture, of a patient
_ENDS = {
    2: (("left", "right"), ("top", "bottom")),
    3: (("right", "left"), ("front", "back"), ("foot", "head")),
}
_AXES = ("the left-right axis", "the front-back axis", "the head-foot axis")
_MAX_AXIS_TILT_DEG = 20.0  # of a rotation's axis, to be named after one of the body's


def turned_grid(grid: Grid, turn: FloatArray, center: Sequence[float] | FloatArray) -> Grid:
    """Return a grid turned or mirrored about a point of the world by an orthogonal matrix (d, d)."""
    origin = AffineTransform.about(center, turn).transform_points(grid.origin)[0]
    return Grid(grid.shape, origin, grid.spacing, turn @ grid.direction)


def turned_image(image: Image, turn: FloatArray, center: FloatArray) -> Image:
    """Turn or mirror an image about a point of the world; the array stays as it is.

    Parameters
    ----------
    image
        2D or 3D image.
    turn
        (d, d) orthogonal matrix.
    center
        (d,) point that stays where it is, LPS mm.

    Returns
    -------
    Image
        The voxel of x lies at ``turn @ (x - center) + center``.
    """
    return Image(image.array, turned_grid(image.grid, turn, center), image.name)


def turned_with_mask(turn: FloatArray, image: Image, mask: Image | None) -> tuple[Image, Image | None]:
    """Return an image and a mask after a turn (d, d) about the image's centre."""
    center = image.grid.center
    return turned_image(image, turn, center), None if mask is None else turned_image(mask, turn, center)


def turned_embedding(embedding: Embedding, turn: FloatArray, center: FloatArray) -> Embedding:
    """Turn or mirror the places of an embedding about a point of the world.

    Parameters
    ----------
    embedding
        Of an image.
    turn
        (d, d) orthogonal matrix.
    center
        (d,) point that stays where it is, LPS mm.

    Returns
    -------
    Embedding
        With the same vectors; itself without a turn.
    """
    if np.array_equal(turn, np.eye(len(turn))):
        return embedding
    global_grid, volume = embedding.global_grid, embedding.volume
    return replace(
        embedding,
        local_grid=turned_grid(embedding.local_grid, turn, center),
        global_grid=None if global_grid is None else turned_grid(global_grid, turn, center),
        image_grid=turned_grid(embedding.image_grid, turn, center),
        volume=None if volume is None else turned_image(volume, turn, center),
    )


def mirror_matrix(ndim: int) -> FloatArray:
    """Return the reflection (d, d) that exchanges left and right."""
    return np.diag([-1.0] + [1.0] * (ndim - 1))


def nearest_rotation(transform: AffineTransform) -> FloatArray:
    """Return the rotation (d, d) nearest to an affine, its orthogonal polar factor; a reflection if it mirrors."""
    from scipy.linalg import polar

    rotation: FloatArray = polar(transform.matrix)[0]
    return rotation


def angle_between(a: FloatArray, b: FloatArray) -> float:
    """Return the angle between two rotations (d, d), or two reflections, degrees.

    Examples
    --------
    >>> import numpy as np
    >>> round(angle_between(np.eye(2), np.array([[0, -1], [1, 0]])))
    90
    """
    difference = a @ b.T
    cosine = (np.trace(difference) - 1) / 2 if len(a) == 3 else np.trace(difference) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def describe_turn(rotation: FloatArray) -> str:
    """Say in words how the moving body lies turned against the fixed one.

    Parameters
    ----------
    rotation
        (d, d), from directions of the fixed body to the same directions of the moving body, LPS.

    Examples
    --------
    >>> import numpy as np
    >>> describe_turn(np.diag([-1, -1, 1]))
    'by 180 degrees about the head-foot axis: its left lies towards the right, its back lies towards the front'
    >>> describe_turn(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    'by 90 degrees about the head-foot axis: its left lies towards the back, its back lies towards the right'
    """
    angle = angle_between(rotation, np.eye(len(rotation)))
    if len(rotation) == 2:
        clockwise = rotation[1, 0] >= 0  # x points right in a picture, and y down
        return f"by {angle:.0f} degrees {'clockwise' if clockwise else 'anticlockwise'}"
    parts = [
        f"its {_ENDS[3][axis][1]} lies towards the {_ENDS[3][to][int(rotation[to, axis] > 0)]}"
        for axis, to in enumerate(np.abs(_nearest_axes(rotation)).argmax(axis=0))
        if to != axis or rotation[to, axis] < 0
    ]
    return f"by {angle:.0f} degrees about {_axis_name(rotation)}" + (": " + ", ".join(parts) if parts else "")


def describe_reflection(turn: FloatArray) -> str:
    """Say in words what a reflection (d, d) of the moving image, LPS, exchanges.

    Examples
    --------
    >>> import numpy as np
    >>> describe_reflection(np.diag([1, 1, -1]))
    'foot and head are exchanged'
    """
    axes = np.diag(_nearest_axes(turn))
    if (axes == 0).any() or (axes < 0).sum() != 1:
        return "and turned as well"
    first, second = _ENDS[len(turn)][int(np.argmin(axes))]
    return f"{first} and {second} are exchanged"


def _axis_name(rotation: FloatArray) -> str:
    from scipy.spatial.transform import Rotation

    vector = Rotation.from_matrix(rotation).as_rotvec()
    along = np.abs(vector) / np.linalg.norm(vector)
    axis = int(along.argmax())
    return _AXES[axis] if along[axis] > np.cos(np.deg2rad(_MAX_AXIS_TILT_DEG)) else "an oblique axis"


def _nearest_axes(turn: FloatArray) -> FloatArray:
    """Return the signed permutation (d, d) nearest to an orthogonal matrix."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-np.abs(turn))
    axes: FloatArray = np.zeros_like(turn, dtype=np.float64)
    axes[rows, columns] = np.sign(turn[rows, columns])
    return axes
