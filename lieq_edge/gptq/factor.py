"""The damped Hessian and its triangular factors, by which an error in one column is passed on to later ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg.blas import strsm
from scipy.linalg.lapack import spotrf

from ..errors import InputError

FLOOR = 0.03
"""Share of the mean of the diagonal of H that is added to all of it, so that rarely used columns keep some weight."""

# The first floor to try if H is singular and none was requested, and the last one.
_SMALLEST_FLOOR = 1e-4
_LARGEST_FLOOR = 1e4
# Entries that are moved at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Factor:
    """H + damping * diag(H) + floor * mean(diag H) * I = R R^T with R upper triangular.

    Damping by the diagonal of H itself shrinks the correlations between columns and leaves their importance alone.
    Correlations are the part of H that other texts share least.

    Attributes:
        hessian: the damped H, float32 ``(columns, columns)``.
        feedback: M, which is R with each column divided by its diagonal entry: the error of a weight in column j times
            row j of M is added to the targets of the later columns.
        variances: R_jj^2, ``(columns,)``: cost of a squared error in column j if all later columns compensate for it.
        damping: the requested damping.
        floor: the floor that was used; larger than requested if H was too badly conditioned.
        scale: power of two near the mean of the diagonal of H, by which everything above is divided.
        diagonal: diagonal of H without damping, divided by ``scale``.
    """

    hessian: torch.Tensor
    feedback: torch.Tensor
    variances: torch.Tensor
    damping: float
    floor: float
    scale: float
    diagonal: torch.Tensor

    def solve(self, right: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``right`` ``(rows, columns)`` times the inverse of the damped H, in the scale of the original H."""
        # BLAS is column-major, so it reads the transpose of M, a lower triangle, without a copy.
        lower = self.feedback.numpy().T
        half_solved = strsm(1 / self.scale, lower, right.copy().T, lower=1, trans_a=1, diag=1, overwrite_b=1)
        half_solved /= self.variances.numpy()[:, None]
        solution: npt.NDArray[np.float32] = strsm(1.0, lower, half_solved, lower=1, diag=1, overwrite_b=1).T
        return solution

    def undamp(self) -> None:
        """Restore the original H in ``hessian``, bit for bit; the factor must not be used afterwards."""
        self.hessian.diagonal().copy_(self.diagonal)
        self.hessian.mul_(self.scale)


@dataclass(frozen=True)
class BlockFactors:
    """Factors H_ss = R R^T for each sub-block s of columns, with all other columns fixed.

    Attributes:
        inverse: H_ss^-1, ``(sub-blocks, sub, sub)``.
        feedback: like ``Factor.feedback``, ``(sub-blocks, sub, sub)``.
        variances: like ``Factor.variances``, ``(sub-blocks, sub)``.
    """

    inverse: torch.Tensor
    feedback: torch.Tensor
    variances: torch.Tensor


def factorise(
    hessian: npt.NDArray[np.floating], damping: float, floor: float = FLOOR, *, in_place: bool = False
) -> Factor:
    """Damp H until it has a Cholesky factor, and factorise it from the last column to the first.

    A column that is zero in all inputs has only its floor: it is rounded to nearest and passes no error on. If H is all
    zero, because nothing reaches the layer or nothing reads it, its factor is that of the identity.

    Args:
        hessian: H, ``(columns, columns)``, symmetric, positive semi-definite.
        damping: share of its diagonal that is added.
        floor: share of the mean of its diagonal that is added too.
        in_place: True if the damped H may overwrite H, which must be float32; ``Factor.undamp`` restores it.

    Raises:
        InputError: H is not finite, or far from positive semi-definite.
    """
    matrix = torch.from_numpy(hessian if in_place else np.array(hessian, np.float32, order="C"))
    mean = float(matrix.diagonal().mean())
    if not np.isfinite(matrix.numpy().sum(dtype=np.float64)):
        raise InputError("The Hessian of a layer holds NaN or Inf; use another calibration text.")
    if mean == 0:
        diagonal = matrix.diagonal().clone()
        matrix.diagonal().fill_(1)
        return Factor(matrix, matrix.clone(), torch.ones(len(matrix)), damping, floor, 1.0, diagonal)
    if mean < 0:
        raise _indefinite()
    # A scale near one keeps float32 from overflowing or losing small entries; the rounding does not depend on it.
    scale = 2.0 ** round(math.log2(mean))
    matrix /= scale
    diagonal = matrix.diagonal().clone()
    unit = float(diagonal.mean())
    matrix.diagonal().mul_(1 + damping).add_(floor * unit)
    while floor <= _LARGEST_FLOOR:
        upper = _upper_factor(matrix)
        if upper is not None:
            pivots = upper.diagonal().clone()
            return Factor(matrix, upper.div_(pivots), pivots.square(), damping, floor, scale, diagonal)
        raised = max(2 * floor, _SMALLEST_FLOOR)
        matrix.diagonal().add_((raised - floor) * unit)
        floor = raised
    raise _indefinite()


def _indefinite() -> InputError:
    return InputError("The Hessian of a layer is not positive semi-definite; measure it again.")


def _upper_factor(matrix: torch.Tensor) -> torch.Tensor | None:
    """Upper triangular R with ``matrix`` = R R^T, or None if there is none. Needs no memory beyond that of R."""
    # With both axes reversed, R is a lower factor, which LAPACK computes in place.
    reversed_matrix = np.ascontiguousarray(matrix.numpy()[::-1, ::-1])
    factor, failed = spotrf(reversed_matrix.T, lower=0, clean=1, overwrite_a=1)
    lower = factor.T
    if failed or not np.isfinite(lower.sum(dtype=np.float64)):
        return None
    _reverse(lower)
    return torch.from_numpy(lower)


def _reverse(square: npt.NDArray[np.float32]) -> None:
    """Reverse both axes in place."""
    flat = square.reshape(-1)
    count = flat.size
    for start in range(0, count // 2, _PIECE):
        stop = min(start + _PIECE, count // 2)
        front = flat[start:stop].copy()
        flat[start:stop] = flat[count - stop : count - start][::-1]
        flat[count - stop : count - start] = front[::-1]


def factorise_blocks(hessian: torch.Tensor, sub: int) -> BlockFactors:
    """Factors of the diagonal blocks of a (damped) H, each of ``sub`` columns."""
    count = len(hessian) // sub
    blocks = hessian.view(count, sub, count, sub).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    upper = torch.linalg.cholesky(blocks.flip(1, 2)).flip(1, 2)
    diagonal = upper.diagonal(dim1=1, dim2=2)
    return BlockFactors(torch.linalg.inv(blocks), upper / diagonal[:, None, :], diagonal.square())
