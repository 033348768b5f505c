"""Cubic B-splines fitted to scattered displacements: the least-squares problem of many matches, and its solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samreg.spatial.grid import FloatArray, Grid

_MEMBRANE_WEIGHT = 0.02  # of the first derivative beside the second
_REWEIGHTINGS = 3  # of the matches, in each solution
_OUTLIER_NOISE = 3.0  # a match that misses by so many times the noise counts a quarter
_MAX_ITERATIONS = 100  # of the conjugate gradients
_RELATIVE_RESIDUAL = 5e-3  # at which they stop
_DATA_SHARE = 0.3  # of the mean data weight, in the preconditioner: most knots are far from any match


@dataclass(frozen=True, eq=False)
class Spline:
    """A uniform cubic B-spline over a grid.

    Parameters
    ----------
    grid
        Its voxels lie within the spline's support.
    knots
        Number of coefficients along x, y(, z): one before the first voxel, two after the last.
    step
        (d,) distance of the knots, voxels.
    """

    grid: Grid
    knots: tuple[int, ...]
    step: FloatArray

    @classmethod
    def over(cls, grid: Grid, knot_spacing: float) -> Spline:
        """Return the spline whose knots lie ``knot_spacing`` mm apart."""
        step = knot_spacing / grid.spacing
        return cls(grid, tuple(int(n) + 4 for n in np.floor((np.asarray(grid.size) - 1) / step)), step)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of coefficients along (z,) y, x."""
        return self.knots[::-1]

    def along(self, axis: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first of the four knots that count at voxel indices (N,) along an axis, and their weights (N, 4).

        Axis 0 is x.
        """
        position = index.clamp(0, self.grid.size[axis] - 1) / float(self.step[axis])
        first = position.floor().clamp(max=self.knots[axis] - 4)
        u = position - first
        weights = [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]
        return first.long(), torch.stack(weights, dim=1) / 6

    def design(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the knots (N, 4**d), counted in order (z, y, x), that count at voxel indices (N, d); their weights."""
        n = len(index)
        columns = torch.zeros(n, 1, dtype=torch.long, device=index.device)
        weights = torch.ones(n, 1, dtype=index.dtype, device=index.device)
        for axis in reversed(range(self.grid.ndim)):
            first, weight = self.along(axis, index[:, axis])
            knots = first[:, None] + torch.arange(4, device=index.device)
            columns = (columns[:, :, None] * self.knots[axis] + knots[:, None]).flatten(1)
            weights = (weights[:, :, None] * weight[:, None]).flatten(1)
        return columns, weights

    def axis_matrix(self, axis: int, device: torch.device) -> Tensor:
        """Return the matrix (voxels, knots), float32, from coefficients to values along an axis; axis 0 is x."""
        index = torch.arange(self.grid.size[axis], dtype=torch.float64, device=device)
        first, weights = self.along(axis, index)
        matrix = torch.zeros(len(index), self.knots[axis], dtype=torch.float64, device=device)
        return matrix.scatter_(1, first[:, None] + torch.arange(4, device=device), weights).float()


@dataclass(frozen=True, eq=False)
class SplineProblem:
    """The least-squares problem of N matches.

    The unknowns are spectra, (d, *spline.shape) in the axes of the displacements: the spline's coefficients as sums of
    cosines, in which all but the border's part of the smoothness is diagonal.

    Parameters
    ----------
    spline
        Of the displacement.
    displacements, weight
        (N, d) mm, and (N,).
    columns, weights
        (N, 4**d) knots that count at each match, counted flat, and how much.
    rows, row_weights, starts
        The same the other way round: the matches at which each knot counts, one knot's after the other's, how much, and
        where each knot's begin, (K,).
    cosines
        Of the coefficients.
    noise
        Expected error of a good match, mm.
    """

    spline: Spline
    displacements: Tensor
    weight: Tensor
    columns: Tensor
    weights: Tensor
    rows: Tensor
    row_weights: Tensor
    starts: Tensor
    cosines: Cosines
    noise: float

    @classmethod
    def of(cls, data: Tensor, spline: Spline, noise: float) -> SplineProblem:
        """Return the problem of matches (N, 1 + 2 d): weight, displacement in mm, voxel index of the fixed point."""
        ndim = spline.grid.ndim
        columns, weights = spline.design(data[:, 1 + ndim :])  # in double precision: it subtracts large indices
        data, weights = data.float(), weights.float()
        order = columns.flatten().argsort(stable=True)
        counts = torch.bincount(columns.flatten(), minlength=int(np.prod(spline.shape)))
        return cls(
            spline, data[:, 1 : 1 + ndim], data[:, 0], columns, weights,
            rows=order // columns.shape[1], row_weights=weights.flatten()[order], starts=counts.cumsum(0) - counts,
            cosines=Cosines.of(spline.shape, data), noise=noise,
        )  # fmt: skip

    def at_matches(self, spectrum: Tensor) -> Tensor:
        """Return the spline (N, d), mm, at the matches."""
        table = self.cosines.coefficients(spectrum).flatten(1).T.contiguous()
        return F.embedding_bag(self.columns, table, per_sample_weights=self.weights, mode="sum")

    def spread(self, values: Tensor) -> Tensor:
        """Return the transpose of :meth:`at_matches` of values (N, d) at the matches."""
        sums = F.embedding_bag(
            self.rows, values.contiguous(), self.starts, per_sample_weights=self.row_weights, mode="sum"
        )
        return self.cosines.spectrum(sums.T.reshape(-1, *self.spline.shape))

    def robust_solution(self, stiffness: float, start: Tensor | None) -> Tensor:
        """Return a spectrum by reweighted least squares; without a start, the first round trusts all matches."""
        shape = (self.spline.grid.ndim, *self.spline.shape)
        solution = self.weight.new_zeros(shape) if start is None else start
        scale = _OUTLIER_NOISE * self.noise
        for iteration in range(_REWEIGHTINGS):
            robust = self.weight / self.noise**2
            if start is not None or iteration > 0:
                miss = (self.at_matches(solution) - self.displacements).square().sum(dim=1)
                robust = robust * (scale**2 / (scale**2 + miss)) ** 2
            weight = robust[:, None]

            def system(x: Tensor, weight: Tensor = weight) -> Tensor:
                return self.spread(weight * self.at_matches(x)) + stiffness * self.cosines.smoothness(x)

            data_weight = _DATA_SHARE * robust.sum() / int(np.prod(self.spline.shape))
            precondition = 1 / (stiffness * self.cosines.inner_smoothness + data_weight + 1e-6)
            right = self.spread(weight * self.displacements)
            solution = _conjugate_gradients(system, right, solution, precondition)
        return solution


Linear = Callable[[Tensor], Tensor]


def _conjugate_gradients(system: Linear, right: Tensor, start: Tensor, precondition: Tensor) -> Tensor:
    """Solve system(x) = right for all components (d, *shape) at once, each by itself; (*shape) preconditions them."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.ndim - 1))

    solution, residual = start, right - system(start)
    direction = improved = precondition * residual
    product = dot(residual, improved)
    goal = _RELATIVE_RESIDUAL**2 * right.square().sum()
    for _ in range(_MAX_ITERATIONS):
        if residual.square().sum() <= goal:
            break
        image = system(direction)
        step = product / dot(direction, image).clamp(min=1e-30)
        solution = solution + step * direction
        residual = residual - step * image
        improved = precondition * residual
        product, before = dot(residual, improved), product
        direction = improved + product / before.clamp(min=1e-30) * direction
    return solution


@dataclass(frozen=True, eq=False)
class Cosines:
    """Spline coefficients (d, *shape) as sums of cosines, and their smoothness: differences stand for derivatives.

    Parameters
    ----------
    waves
        For each axis the orthonormal cosines (n, n).
    mixed
        (*shape) what the smoothness has of first derivatives and of the second ones along two axes, all diagonal.
    second
        For each axis the (n, n) matrix of the squared second differences, of spectra.
    inner_smoothness
        (*shape) the whole smoothness away from the border, where it is diagonal.
    """

    waves: tuple[Tensor, ...]
    mixed: Tensor
    second: tuple[Tensor, ...]
    inner_smoothness: Tensor

    @classmethod
    def of(cls, shape: Sequence[int], like: Tensor) -> Cosines:
        """Return those of coefficients of a shape, on the device of a tensor and of its type."""
        waves, second, eigenvalues = [], [], []
        for axis, n in enumerate(shape):
            k = torch.arange(n, dtype=torch.float64, device=like.device)
            wave = torch.cos(np.pi / n * (k + 0.5) * k[:, None]) * (2 / n) ** 0.5
            wave[0] /= 2**0.5
            differences = wave.diff(n=2, dim=1)
            waves.append(wave.to(like.dtype))
            second.append((differences @ differences.T).to(like.dtype))
            # of the squared first differences
            eigenvalues.append((2 - 2 * torch.cos(np.pi / n * k)).reshape(-1, *[1] * (len(shape) - 1 - axis)))
        laplacian, squares = reduce(torch.add, eigenvalues), reduce(torch.add, [e**2 for e in eigenvalues])
        mixed = laplacian**2 - squares + _MEMBRANE_WEIGHT * laplacian + 1e-6
        return cls(tuple(waves), mixed.to(like.dtype), tuple(second), (mixed + squares).to(like.dtype))

    def spectrum(self, coefficients: Tensor) -> Tensor:
        """Return the spectrum (d, *shape) of coefficients."""
        for axis, wave in enumerate(self.waves):
            coefficients = along_axis(axis, wave, coefficients)
        return coefficients

    def coefficients(self, spectrum: Tensor) -> Tensor:
        """Return the coefficients (d, *shape) of a spectrum."""
        for axis, wave in enumerate(self.waves):
            spectrum = along_axis(axis, wave.T, spectrum)
        return spectrum

    def smoothness(self, spectrum: Tensor) -> Tensor:
        """Return half the gradient of the bending energy and a little of the membrane's, of a spectrum."""
        return reduce(
            torch.add,
            (along_axis(axis, second, spectrum) for axis, second in enumerate(self.second)),
            self.mixed * spectrum,
        )


def along_axis(axis: int, matrix: Tensor, x: Tensor) -> Tensor:
    """Return the matrix (m, n) times an array (d, ..., n, ...) along an axis, those after the first counted."""
    before, n = x.shape[: axis + 1], x.shape[axis + 1]
    after = x.shape[axis + 2 :]
    if not after:
        return x @ matrix.T
    return (matrix @ x.reshape(-1, n, int(np.prod(after)))).reshape(*before, len(matrix), *after)
