"""A smooth displacement field without folds from scattered correspondences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from samreg.errors import ImagesAtFault
from samreg.matching.correspondences import Correspondences
from samreg.seeding.spline import Spline, SplineProblem, along_axis
from samreg.spatial.displacement import DisplacementField
from samreg.spatial.grid import Grid
from samreg.spatial.transforms import AffineTransform

_MIN_RELIABILITY = 1e-3  # a match counts at least this much
_MAX_STIFFENINGS = 12
_STIFFENING = 2.5  # factor, after a field that folds
_SHORTENING = 0.95  # of the length at which a field would just not fold, if its Jacobian were linear in it


def fit_displacement(
    correspondences: Correspondences,
    affine: AffineTransform,
    grid: Grid,
    *,
    knot_spacing: float = 20.0,
    stiffness: float = 0.005,
    noise: float = 8.0,
    margin: float = 40.0,
    spacing: float = 4.0,
    min_jacobian: float = 0.1,
    scale: float = 1.0,
    shorten: bool = False,
    device: str | torch.device = "cpu",
) -> DisplacementField:
    """Fit the displacement u of T(x) = affine(x + u(x)) to correspondences.

    A cubic B-spline minimises the robust, reliability-weighted distance to the correspondences plus the bending
    energy (Rueckert et al., TMI 1999) and a little of the first derivative, so that u falls to zero away from
    the data. The stiffness is raised until no voxel folds, or u as a whole shortened.

    Parameters
    ----------
    correspondences
        Pairs, fixed to moving; weighted by their reliability.
    affine
        Fixed to moving; the field explains what it leaves.
    grid
        The fixed image's grid.
    knot_spacing
        Distance of the spline's knots, mm.
    stiffness
        Weight of the smoothness.
    noise
        Expected error of a good match, mm; pairs that miss by several times this count little.
    margin
        The field reaches this far beyond the grid and falls to zero there, mm.
    spacing
        Voxel size of the returned field, mm.
    min_jacobian
        Smallest Jacobian determinant allowed.
    scale
        Multiplies all lengths above; of the features that were matched.
    shorten
        Shorten a field that folds: a step towards the correspondences that leaves the rest of them to further steps,
        and goes as far where they ask for little.
    device
        Where to compute.

    Returns
    -------
    DisplacementField
        u on a grid that covers ``grid`` and the margin, in the fixed frame.

    Raises
    ------
    ImagesAtFault
        When there are no correspondences, or they contradict each other so much that every field folds.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.matching import Correspondences
    >>> from samreg.spatial import AffineTransform, Grid
    >>> grid = Grid.make((6, 6, 6), spacing=20.0)
    >>> points = grid.world_points().reshape(-1, 3)
    >>> pairs = Correspondences.from_points(points, points + [5.0, 0.0, 0.0])
    >>> field = fit_displacement(pairs, AffineTransform.identity(3), grid, spacing=20.0)
    >>> field.transform_points([[50.0, 50.0, 50.0]]).round()
    array([[55., 50., 50.]])
    """
    if len(correspondences) == 0:
        raise ImagesAtFault("no matches are left to fit a displacement field to")
    knot_spacing, noise, margin, spacing = (scale * length for length in (knot_spacing, noise, margin, spacing))
    stiffness = stiffness / scale**2
    field_grid = grid.with_spacing(np.minimum(spacing, grid.extent)).padded(margin)
    weight = np.maximum(correspondences.reliability, _MIN_RELIABILITY)
    displacements = affine.inverse().transform_points(correspondences.moving) - correspondences.fixed
    index = field_grid.world_to_index(correspondences.fixed)
    # one transfer in, one out
    data = torch.from_numpy(np.column_stack([weight, displacements, index])).to(device)
    problem = SplineProblem.of(data, Spline.over(field_grid, knot_spacing), noise)
    evaluation = _Evaluation.on(problem.spline, margin, data.device)
    spectrum = None
    for _ in range(_MAX_STIFFENINGS):
        spectrum = problem.robust_solution(stiffness, spectrum)
        displacement = evaluation.displacement(problem.cosines.coefficients(spectrum))
        smallest = evaluation.smallest_jacobian(displacement)
        while shorten and smallest < min_jacobian:
            displacement = displacement * (_SHORTENING * (1 - min_jacobian) / (1 - smallest))
            smallest = evaluation.smallest_jacobian(displacement)
        if smallest >= min_jacobian:
            return DisplacementField(displacement.movedim(0, -1).contiguous().cpu().numpy(), field_grid)
        stiffness *= _STIFFENING
    raise ImagesAtFault("the matches contradict each other: every displacement field through them folds")


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """From coefficients to the field on its grid, falling to zero over the margin, and how near it is to folding.

    Parameters
    ----------
    grid
        Of the field.
    matrices
        For each axis (z,) y, x the matrix (voxels, knots) from coefficients to values.
    windows
        For each axis (voxels,), 1 inside and falling to 0 at the border, as in
        :func:`samreg.spatial.displacement.tapered`.
    """

    grid: Grid
    matrices: tuple[Tensor, ...]
    windows: tuple[Tensor, ...]

    @classmethod
    def on(cls, spline: Spline, margin: float, device: torch.device) -> _Evaluation:
        """Return that of a spline; the margin is in mm."""
        axes = [*reversed(range(spline.grid.ndim))]
        matrices = tuple(spline.axis_matrix(axis, device) for axis in axes)
        windows = []
        for axis in axes:
            place = torch.arange(spline.grid.size[axis], dtype=torch.float64, device=device)
            t = torch.minimum(place, place.flip(0)) * (float(spline.grid.spacing[axis]) / max(margin, 1e-6))
            t = t.clamp(max=1)
            windows.append((t * t * (3 - 2 * t)).float())
        return cls(spline.grid, matrices, tuple(windows))

    def displacement(self, coefficients: Tensor) -> Tensor:
        """Return the displacement (d, *grid.shape), float32, mm."""
        field = coefficients.float()
        for axis, (matrix, window) in enumerate(zip(self.matrices, self.windows, strict=True)):
            field = along_axis(axis, matrix * window[:, None], field)
        return field

    def smallest_jacobian(self, displacement: Tensor) -> float:
        """Return the smallest determinant at a voxel, as :func:`samreg.spatial.jacobian_determinant` takes them."""
        ndim = self.grid.ndim
        inverse = np.linalg.inv(self.grid.index_matrix)
        rows: list[list[Tensor]] = []
        for component in range(ndim):
            # array axis k is index axis ndim-1-k
            by_index = torch.gradient(displacement[component])[::-1]
            rows.append(
                [
                    reduce(torch.add, [float(inverse[i, j]) * by_index[i] for i in range(ndim) if inverse[i, j]])
                    + float(component == j)
                    for j in range(ndim)
                ]
            )
        if ndim == 2:
            (a, b), (c, d) = rows
            return float((a * d - b * c).min())
        (a, b, c), (d, e, f), (g, h, i) = rows
        return float((a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)).min())
