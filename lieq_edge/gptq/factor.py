"""Damped second moments and the triangular factors that carry an error from one column to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError

FLOOR = 0.03
"""Part of the mean diagonal that is added to all of it, so that columns which are hardly used weigh something."""

# Where raising the floor starts, when none was asked for and H is singular, and where it is given up.
_SMALLEST_FLOOR = 1e-4
_LARGEST_FLOOR = 1e4
# Numbers that are moved at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Factor:
    """H + damping * diag(H) + floor * mean(diag H) * I = R R^T with R upper triangular.

    Damping by the diagonal of H itself shrinks the correlations between columns and leaves their importance alone.
    Correlations are what another text shares least.

    Attributes:
        hessian: the damped H, float32 ``(columns, columns)``.
        feedback: M, R with each column divided by its diagonal: a weight's error times row j of M is what the later
            columns must make up for.
        variances: R_jj^2, ``(columns,)``: the price of a squared error of column j once all later columns answer to it.
        damping: what was asked for.
        floor: what was used; more than what was asked for when H was too badly conditioned.
        scale: power of two near the mean of the diagonal of H, which everything above is divided by.
        diagonal: of H, in that scale.
    """

    hessian: torch.Tensor
    feedback: torch.Tensor
    variances: torch.Tensor
    damping: float
    floor: float
    scale: float
    diagonal: torch.Tensor

    def solve(self, right: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``right`` ``(rows, columns)`` times the inverse of the damped H, in the scale of the H that was given."""
        from scipy.linalg.blas import strsm

        # BLAS reads columns first, so that M turned, a lower triangle, is there without a copy.
        lower = self.feedback.numpy().T
        turned = strsm(1 / self.scale, lower, right.copy().T, lower=1, trans_a=1, diag=1, overwrite_b=1)
        turned /= self.variances.numpy()[:, None]
        found: npt.NDArray[np.float32] = strsm(1.0, lower, turned, lower=1, diag=1, overwrite_b=1).T
        return found

    def undamp(self) -> None:
        """Make ``hessian`` the H that was given, bit for bit; the factor is of no use any more."""
        self.hessian.diagonal().copy_(self.diagonal)
        self.hessian.mul_(self.scale)


@dataclass(frozen=True)
class BlockFactors:
    """For each sub-block of columns, with all other columns held fixed: H_ss = R R^T.

    Attributes:
        inverse: ``(sub-blocks, sub, sub)``, H_ss^-1.
        feedback: like ``Factor.feedback``, ``(sub-blocks, sub, sub)``.
        variances: like ``Factor.variances``, ``(sub-blocks, sub)``.
    """

    inverse: torch.Tensor
    feedback: torch.Tensor
    variances: torch.Tensor


def factorise(
    hessian: npt.NDArray[np.floating], damping: float, floor: float = FLOOR, *, in_place: bool = False
) -> Factor:
    """Damp H until it has a Cholesky factor, and factorise it from its last column to its first.

    A column that no input ever used has only its damping: it is rounded to nearest and passes nothing on.

    Args:
        hessian: H, symmetric, positive semi-definite.
        damping: part of its diagonal that is added.
        floor: part of the mean of its diagonal that is added too.
        in_place: the damped H takes the memory of H, which must be float32; ``Factor.undamp`` gives it back.

    Raises:
        InputError: H is not finite, all zero, or far from positive semi-definite.
    """
    matrix = torch.from_numpy(hessian if in_place else np.array(hessian, np.float32, order="C"))
    mean = float(matrix.diagonal().mean())
    if not np.isfinite(matrix.numpy().sum(dtype=np.float64)):
        raise InputError("The calibration statistics hold NaN or Inf; use another calibration text.")
    if mean <= 0:
        raise InputError("The calibration statistics are all zero; use a longer calibration text.")
    # Scaled so that float32 neither overflows nor loses small entries; nothing below depends on the scale of H.
    scale = 2.0 ** round(math.log2(mean))
    matrix /= scale
    diagonal = matrix.diagonal().clone()
    unit = float(diagonal.mean())
    matrix.diagonal().mul_(1 + damping).add_(floor * unit)
    while floor <= _LARGEST_FLOOR:
        upper = _upper_factor(matrix)
        if upper is not None:
            own = upper.diagonal().clone()
            return Factor(matrix, upper.div_(own), own.square(), damping, floor, scale, diagonal)
        raised = max(2 * floor, _SMALLEST_FLOOR)
        matrix.diagonal().add_((raised - floor) * unit)
        floor = raised
    raise InputError("The calibration statistics are not positive semi-definite; measure them again.")


def _upper_factor(matrix: torch.Tensor) -> torch.Tensor | None:
    """R, upper triangular, of ``matrix`` = R R^T; None where there is none. Takes the memory of R and no more."""
    from scipy.linalg.lapack import spotrf

    # Turned end to end, R is a lower factor, which LAPACK finds in place; it reads columns first and calls it upper.
    turned = np.ascontiguousarray(matrix.numpy()[::-1, ::-1])
    factor, failed = spotrf(turned.T, lower=0, clean=1, overwrite_a=1)
    lower = factor.T
    if failed or not np.isfinite(lower.sum(dtype=np.float64)):
        return None
    _turn(lower)
    return torch.from_numpy(lower)


def _turn(square: npt.NDArray[np.float32]) -> None:
    """Reverse both axes in place: all entries in reverse order."""
    flat = square.reshape(-1)
    count = flat.size
    for start in range(0, count // 2, _PIECE):
        stop = min(start + _PIECE, count // 2)
        front = flat[start:stop].copy()
        flat[start:stop] = flat[count - stop : count - start][::-1]
        flat[count - stop : count - start] = front[::-1]


def factorise_blocks(hessian: torch.Tensor, sub: int) -> BlockFactors:
    """Factors of the diagonal blocks of a (damped) H, ``sub`` columns each."""
    count = len(hessian) // sub
    blocks = hessian.view(count, sub, count, sub).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    upper = torch.linalg.cholesky(blocks.flip(1, 2)).flip(1, 2)
    diagonal = upper.diagonal(dim1=1, dim2=2)
    return BlockFactors(torch.linalg.inv(blocks), upper / diagonal[:, None, :], diagonal.square())
