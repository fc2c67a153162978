"""Second moments of what linear layers receive, weighted by how much the loss minds each token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..measure.loss_weights import LossWeights
    from ..measure.model import BlockModel

HELD_OUT = 4
"""One sequence in so many is held out: it judges rounding and predicts losses, and teaches nothing."""


@dataclass(frozen=True)
class Moments:
    """H = sum_t w_t x_t x_t^T, float32 ``(columns, columns)``: over the tokens to learn from, and those held out."""

    learned: Tensor
    held_out: Tensor

    @property
    def whole(self) -> Tensor:
        """Over all tokens."""
        return self.learned + self.held_out

    def add(self, x: Tensor, weights: Tensor, *, held_out: bool) -> None:
        """Add the tokens of a sequence: inputs ``(T, columns)`` with their w_t ``(T,)``."""
        scaled = x * weights.sqrt()[:, None]
        (self.held_out if held_out else self.learned).addmm_(scaled.T, scaled)


def importance_of(moments: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Importance of each column from its H: the diagonal, kept above zero for columns that are never active."""
    diagonal = moments.diagonal()
    floored: npt.NDArray[np.float32] = np.maximum(diagonal, 1e-6 * diagonal.mean()).astype(np.float32)
    return floored if floored.any() else np.ones_like(floored)


def held_out_sequences(count: int) -> frozenset[int]:
    """Which of ``count`` sequences are held out: the last of every ``HELD_OUT``, and at least one.

    Raises:
        InputError: there are not two.
    """
    if count < 2:
        raise InputError(
            "Feedback and the metric loss need two windows of calibration text; raise --calibration-tokens."
        )
    return frozenset(range(HELD_OUT - 1, count, HELD_OUT)) or frozenset({count - 1})


def weighted_moments(sequences: Iterable[Tensor], weights: Tensor) -> Moments:
    """Moments of given inputs.

    Args:
        sequences: inputs ``(T, columns)`` of each sequence in turn.
        weights: w_t, ``(n, T)``.
    """
    import torch

    held_out = held_out_sequences(len(weights))
    found: Moments | None = None
    for sequence, x in enumerate(sequences):
        if found is None:
            found = Moments(torch.zeros(x.shape[1], x.shape[1]), torch.zeros(x.shape[1], x.shape[1]))
        found.add(x, weights[sequence], held_out=sequence in held_out)
    assert found is not None
    return found


class MomentCollector:
    """Collects the moments of a block's linears while sequences run through it."""

    def __init__(self, model: BlockModel, module: nn.Module, index: int, weights: LossWeights) -> None:
        """Start with zeros for every linear of block ``index``."""
        import torch

        self._model = model
        self._linears = model.linears(module, index)
        self._weights = weights
        self.moments = {
            name: Moments(*(torch.zeros(linear.in_features, linear.in_features) for _ in range(2)))
            for name, linear in self._linears.items()
        }

    def run(self, module: nn.Module, index: int, hidden: Tensor, *, keep: bool = True) -> None:
        """Run all sequences ``(n, T, d)`` through the block and collect; ``keep`` puts its output into ``hidden``."""
        for sequence in range(hidden.shape[0]):
            with self._listening(sequence):
                out = self._model.run_block(module, index, hidden[sequence : sequence + 1])
            if keep:
                hidden[sequence] = out[0]

    @contextlib.contextmanager
    def _listening(self, sequence: int) -> Iterator[None]:
        def collect(name: str, x: Tensor) -> None:
            weights = self._weights.tokens[name]
            self.moments[name].add(x[0], weights[sequence], held_out=sequence in held_out_sequences(len(weights)))

        hooks = [
            linear.register_forward_pre_hook(lambda _, args, name=name: collect(name, args[0]))
            for name, linear in self._linears.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
