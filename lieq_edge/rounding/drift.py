"""Correct the drift that rounding has caused in the residual stream so far.

Behind rounded blocks the residual stream has drifted away from the original's. The two matrices of a block that write
to it can pull it back as far as the drift is a linear function of their inputs: with r_t the difference that remains
after such a matrix has written, the change D of its weights that makes sum_t w_t |r_t - D x_t|^2 least is C H^-1, where
C = sum_t w_t r_t x_t^T. Then W + D is rounded in the place of W. H is damped as for rounding, and held-out sequences
decide how much of D to take.

GPTAQ (arXiv 2504.02692) and QEP (arXiv 2504.09629) give each layer the original's *own output* as its target. Here the
target is the residual stream, so that errors of all earlier layers are corrected, and not only those of the inputs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..blockwise.precision import fast_products
from ..blockwise.residual import Written
from ..blockwise.workers import Workers
from ..gptq.factor import Factor
from ..gptq.hessian import CrossMoment, Hessian

Floats = npt.NDArray[np.float32]

# Number of parts of the rows, which workers solve for.
_PARTS = 4


class Stream:
    """The residual stream behind rounded blocks, while a block writes to it."""

    def __init__(self, targets: Written, batch: slice, entered: Tensor) -> None:
        """Begin at the input of a block.

        Args:
            targets: residual stream of the original where the block writes to it.
            batch: sequences to follow.
            entered: input of the block, ``(b, T, d)``.
        """
        self._targets = targets
        self._batch = batch
        self._now = entered

    def write(self, out: Tensor) -> None:
        """Add the output of the next matrix, ``(b, T, d)``."""
        self._now = self._now + self._targets.scale * out.float()

    def missing(self, name: str) -> Tensor:
        """The output ``(b, T, d)`` that ``name``, which writes next, should have."""
        return (self._targets.streams[name][self._batch] - self._now) / self._targets.scale


def correction(
    factor: Factor, moments: Hessian, cross: CrossMoment, channels: Floats, workers: Workers | None = None
) -> Floats:
    """The change of a matrix that corrects the drift, float32 ``(rows, columns)``.

    Args:
        factor: factor of the damped H of the learned tokens.
        moments: H of the matrix, whose held-out tokens are used.
        cross: C of inputs and wanted changes of outputs; the result takes its memory.
        channels: relative energy of the gradient at each row, ``(rows,)``.
        workers: pool that solves for parts of the rows; None solves in this thread.
    """

    def solve(part: Floats) -> None:
        part[:] = factor.solve(part)

    parts = np.array_split(cross.learned, _PARTS)
    if workers is not None:
        workers.map(solve, parts)
    else:
        for part in parts:
            solve(part)
    solution = torch.from_numpy(cross.learned)
    # The held-out sum of w |r - a D x|^2 is least at this a.
    with fast_products():
        change = (torch.from_numpy(moments.held_out) @ solution.T).float()
    wanted = torch.from_numpy(cross.held_out)
    rows = torch.from_numpy(channels)
    fitting, energy = (float((change * other).sum(0) @ rows) for other in (wanted, change))
    share = min(max(fitting / energy, 0.0), 1.0) if energy > 0 else 0.0
    result: Floats = solution.mul_(share).numpy()
    return result
