"""Damped second moments and the triangular factors that carry an error from one column to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ...errors import InputError

# Where raising the damping starts when H is singular, and where it is given up.
_SMALLEST_DAMPING = 1e-4
_LARGEST_DAMPING = 1e4


@dataclass(frozen=True)
class Factor:
    """H + damping * mean(diag H) * I = R R^T with R upper triangular.

    Attributes:
        hessian: the damped H, float32 ``(columns, columns)``.
        feedback: M, R with each column divided by its diagonal: a weight's error times row j of M is what the later
            columns must make up for.
        variances: R_jj^2, the price of a squared error of column j once all later columns answer to it.
        damping: what was used.
    """

    hessian: torch.Tensor
    feedback: torch.Tensor
    variances: list[float]
    damping: float


@dataclass(frozen=True)
class BlockFactors:
    """For each sub-block of columns, with all other columns held fixed: H_ss = R R^T.

    Attributes:
        inverse: ``(sub-blocks, sub, sub)``, H_ss^-1.
        feedback: like ``Factor.feedback``, ``(sub-blocks, sub, sub)``.
        variances: like ``Factor.variances``, a list for each sub-block.
    """

    inverse: torch.Tensor
    feedback: torch.Tensor
    variances: list[list[float]]


def factorise(hessian: npt.NDArray[np.floating], damping: float) -> Factor:
    """Damp H until it has a Cholesky factor, and factorise it from its last column to its first.

    A column that no input ever used has only its damping: it is rounded to nearest and passes nothing on.

    Raises:
        InputError: H is not finite, all zero, or far from positive semi-definite.
    """
    matrix = torch.from_numpy(np.array(hessian, np.float32, order="C"))
    mean = float(matrix.diagonal().mean())
    if not bool(torch.isfinite(matrix).all()):
        raise InputError("The calibration statistics hold NaN or Inf; use another calibration text.")
    if mean <= 0:
        raise InputError("The calibration statistics are all zero; use a longer calibration text.")
    # Scaled so that float32 neither overflows nor loses small entries; nothing below depends on the scale of H.
    matrix /= mean
    used, added = damping, 0.0
    while used <= _LARGEST_DAMPING:
        matrix.diagonal().add_(used - added)
        added = used
        lower, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
        if int(failed) == 0 and bool(torch.isfinite(lower).all()):
            upper = lower.flip(0, 1)
            diagonal = upper.diagonal().clone()
            return Factor(matrix, upper.div_(diagonal), diagonal.square().tolist(), used)
        used = max(2 * used, _SMALLEST_DAMPING)
    raise InputError("The calibration statistics are not positive semi-definite; measure them again.")


def factorise_blocks(hessian: torch.Tensor, sub: int) -> BlockFactors:
    """Factors of the diagonal blocks of a (damped) H, ``sub`` columns each."""
    count = len(hessian) // sub
    blocks = hessian.view(count, sub, count, sub).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    upper = torch.linalg.cholesky(blocks.flip(1, 2)).flip(1, 2)
    diagonal = upper.diagonal(dim1=1, dim2=2)
    return BlockFactors(torch.linalg.inv(blocks), upper / diagonal[:, None, :], diagonal.square().tolist())
