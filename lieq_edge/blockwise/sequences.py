"""Sequences that a model writes side by side, token by token."""

from __future__ import annotations

import torch
from torch import Tensor


class Writer:
    """Sequences that grow by a token at a time: their openings first, then what was sampled."""

    def __init__(self, openings: list[list[int]], length: int, stop: frozenset[int]) -> None:
        self._openings = openings
        self._pending = [list(opening) for opening in openings]
        self._stop = stop
        self.ids = torch.empty(len(openings), length, dtype=torch.long)
        self.sampled = torch.zeros(len(openings), dtype=torch.long)

    def put(self, position: int) -> Tensor:
        """Fill in the tokens at ``position`` and return them, ``(sequences, 1)``."""
        for row, queue in enumerate(self._pending):
            token = queue.pop(0) if queue else int(self.sampled[row])
            self.ids[row, position] = token
            if token in self._stop and not queue:
                self._pending[row] = list(self._openings[row])
        return self.ids[:, position : position + 1]


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token ``(n,)`` of each row's distribution, by one random number a row and the running sum."""
    # float64: a running sum of so many small float32 numbers would lose the rarest tokens.
    running = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    drawn = torch.rand(len(running), 1, generator=generator, dtype=torch.float64) * running[:, -1:]
    return torch.searchsorted(running, drawn, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
