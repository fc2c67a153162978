"""How much more errors of a linear raise the loss of sequences than the sum over their tokens says."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

# Outputs of a linear whose coherence is measured; that of all of them is taken to be the same.
_OUTPUTS = 64


class Erring:
    """An input ``(b, T, columns)`` of linears, and what random errors of their weights make of it."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @functools.cached_property
    def outputs(self) -> Tensor:
        """``(b, T, _OUTPUTS)``."""
        return nn.functional.linear(self.x.detach(), _random_errors(self.x.shape[-1]))


class Coherence:
    """Sums over the sequences that a linear sees.

    Attributes:
        ratio: rise of the loss by errors of whole sequences, over that by errors of single tokens.
    """

    def __init__(self, rows: int) -> None:
        """Start without sequences, for a linear of so many outputs."""
        self._step = max(1, rows // _OUTPUTS)
        self._sequences = self._tokens = 0.0

    def add(self, errors: Tensor, slope: Tensor) -> None:
        """Add sequences: random errors ``(b, T, _OUTPUTS)`` and gradients ``(b, T, rows)`` at the outputs."""
        parts = self._parts(errors, slope)
        self._sequences += float(parts.sum(-2).square().sum())
        self._tokens += float(parts.square_().sum())

    def add_visits(self, x: Tensor, slope: Tensor, sequence: Tensor) -> None:
        """Add visits to an expert: inputs ``(visits, columns)``, gradients, and the ``sequence`` of each visit."""
        parts = self._parts(nn.functional.linear(x, _random_errors(x.shape[-1])), slope)
        together = parts.new_zeros(int(sequence.max()) + 1, parts.shape[1]).index_add_(0, sequence, parts)
        self._sequences += float(together.square_().sum())
        self._tokens += float(parts.square_().sum())

    def _parts(self, errors: Tensor, slope: Tensor) -> Tensor:
        slopes = slope[..., :: self._step][..., :_OUTPUTS]
        return slopes.float() * errors[..., : slopes.shape[-1]]

    @property
    def ratio(self) -> float:
        return self._sequences / self._tokens if self._tokens > 0 else 1.0


@functools.cache
def _random_errors(columns: int) -> Tensor:
    """``(_OUTPUTS, columns)``, the same for all linears of a width; rounding errors are nearly as random."""
    return torch.randn(_OUTPUTS, columns, generator=torch.Generator().manual_seed(0))
