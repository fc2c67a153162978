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

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..measure.model import BlockModel
    from .rounding.factor import Factor
    from .statistics import CrossMoments, Moments

Floats = npt.NDArray[np.float32]

# A block counts as one that adds two outputs to its input when these leave no more of its change unexplained.
_UNEXPLAINED = 1e-3


@dataclass(frozen=True)
class Targets:
    """The residual stream of the original, where a block writes to it.

    Attributes:
        streams: behind each matrix that writes, in the order in which they do, by GGUF name, ``(n, T, d)``.
        scale: what outputs are multiplied by on their way into the stream (Granite); 1 for most.
    """

    streams: dict[str, Tensor]
    scale: float


class Original:
    """The original's hidden states, which pass through each block before it is rounded."""

    def __init__(self, hidden: Tensor) -> None:
        """Begin with ``hidden`` ``(n, T, d)``, which is overwritten."""
        self.hidden = hidden

    def advance(self, model: BlockModel, module: nn.Module, index: int) -> Targets | None:
        """Pass through a block, whose weights are exact.

        Returns:
            The targets; None for blocks that do more with those outputs than add them (norms behind them, Gemma 3).
        """
        from ..measure.sixteen_bits import turned_once

        linears = model.linears(module, index)
        writers = [f"blk.{index}.attn_output.weight", f"blk.{index}.ffn_down.weight"]
        if not all(name in linears for name in writers):
            model.advance(module, index, self.hidden)
            return None
        scale: float | None = None
        first = torch.empty_like(self.hidden)
        outputs: dict[str, Tensor] = {}

        def keep(name: str, out: Tensor) -> None:
            outputs[name] = out.float()

        hooks = [linears[n].register_forward_hook(lambda _, __, out, n=n: keep(n, out)) for n in writers]
        try:
            with turned_once(module):
                for batch in model.batches(self.hidden.shape):
                    entered = self.hidden[batch]
                    left = model.run_block(module, index, entered)
                    if batch.start == 0:
                        writers = list(outputs)  # in the order in which they write
                        scale = _scale(left - entered, outputs[writers[0]] + outputs[writers[1]])
                    if scale is not None:
                        torch.add(entered, outputs[writers[0]], alpha=scale, out=first[batch])
                    self.hidden[batch] = left
        finally:
            for hook in hooks:
                hook.remove()
        if scale is None:
            return None
        return Targets({writers[0]: first, writers[1]: self.hidden}, scale)


class Stream:
    """The residual stream behind rounded blocks, while a block writes to it."""

    def __init__(self, targets: Targets, batch: slice, entered: Tensor) -> None:
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


def _scale(change: Tensor, outputs: Tensor) -> float | None:
    """What ``outputs`` are multiplied by to be ``change``; None when nothing makes them that."""
    energy = float(outputs.square().sum())
    scale = float((change * outputs).sum()) / energy if energy > 0 else 0.0
    unexplained = float((change - scale * outputs).square().sum()) / max(float(change.square().sum()), 1e-30)
    return scale if scale != 0 and unexplained < _UNEXPLAINED**2 else None


def correction(factor: Factor, moments: Moments, cross: CrossMoments, channels: Floats) -> Floats:
    """What to add to a matrix, ``(rows, columns)``.

    Args:
        factor: of the damped H of the tokens to learn from.
        moments: of its inputs; those held out are used.
        cross: C with what its outputs should change by.
        channels: relative energy of the gradient at each row, ``(rows,)``.
    """
    found = torch.from_numpy(factor.solve(cross.learned))
    # The held-out sum of w |r - a D x|^2 is least at this a.
    change, wanted = torch.from_numpy(moments.held_out) @ found.T, torch.from_numpy(cross.held_out)
    rows = torch.from_numpy(channels)
    fitting, energy = (float((change * other).sum(0) @ rows) for other in (wanted, change))
    share = min(max(fitting / energy, 0.0), 1.0) if energy > 0 else 0.0
    result: Floats = found.mul(share).contiguous().numpy()
    return result
