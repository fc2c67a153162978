"""Make up for what rounding has done to the residual stream so far.

Behind rounded blocks the residual stream has drifted away from the original's. The two matrices of a block that write
to it can pull it back as far as the drift is a linear function of their inputs: with r_t the difference that is left
when such a matrix has written, the change D of its weights that makes sum_t w_t |r_t - D x_t|^2 least is C H^-1, where
C = sum_t w_t r_t x_t^T. Then W + D is rounded in the place of W. H is damped as for rounding, and held-out sequences
say how much of D to take.

GPTAQ (arXiv 2504.02692) and QEP (arXiv 2504.09629) give each layer the original's *own output* as its target. Here the
target is the residual stream, so that errors of all layers before are made up for, and not only those of the inputs.
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

# Rows are solved for in so many parts.
_PARTS = 4


class Stream:
    """The residual stream behind rounded blocks, while a block writes to it."""

    def __init__(self, targets: Written, batch: slice, entered: Tensor) -> None:
        """Begin with what ``entered`` the block, ``(b, T, d)``, for the sequences ``batch``."""
        self._targets = targets
        self._batch = batch
        self._now = entered

    def write(self, out: Tensor) -> None:
        """The next matrix writes its output ``(b, T, d)``."""
        self._now = self._now + self._targets.scale * out.float()

    def missing(self, name: str) -> Tensor:
        """What the output of ``name``, which writes next, should be, ``(b, T, d)``."""
        return (self._targets.streams[name][self._batch] - self._now) / self._targets.scale


def correction(
    factor: Factor, moments: Hessian, cross: CrossMoment, channels: Floats, workers: Workers | None = None
) -> Floats:
    """What to add to a matrix, ``(rows, columns)``.

    Args:
        factor: of the damped H of the tokens to learn from.
        moments: of its inputs; those held out are used.
        cross: C with what its outputs should change by; the result takes the memory of C.
        channels: relative energy of the gradient at each row, ``(rows,)``.
        workers: solve for some of the rows each.
    """

    def solve(part: Floats) -> None:
        part[:] = factor.solve(part)

    parts = np.array_split(cross.learned, _PARTS)
    if workers is not None:
        workers.map(solve, parts)
    else:
        for part in parts:
            solve(part)
    found = torch.from_numpy(cross.learned)
    # The held-out sum of w |r - a D x|^2 is least at this a.
    with fast_products():
        change = (torch.from_numpy(moments.held_out) @ found.T).float()
    wanted = torch.from_numpy(cross.held_out)
    rows = torch.from_numpy(channels)
    fitting, energy = (float((change * other).sum(0) @ rows) for other in (wanted, change))
    share = min(max(fitting / energy, 0.0), 1.0) if energy > 0 else 0.0
    result: Floats = found.mul_(share).numpy()
    return result
