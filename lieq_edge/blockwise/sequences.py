"""Sequences that a model writes in parallel, token by token."""

from __future__ import annotations

import torch
from torch import Tensor


class Writer:
    """Sequences that grow one token at a time: first their openings, then sampled tokens.

    Attributes:
        ids: tokens so far, int64 ``(sequences, length)``.
        sampled: next token of each sequence, ``(sequences,)``, used where no opening is pending; set by the caller.
    """

    def __init__(self, openings: list[list[int]], length: int, stop: frozenset[int]) -> None:
        """Start ``length`` tokens of each opening; after an id in ``stop`` a sequence starts anew with its opening."""
        self._openings = openings
        self._pending = [list(opening) for opening in openings]
        self._stop = stop
        self.ids = torch.empty(len(openings), length, dtype=torch.long)
        self.sampled = torch.zeros(len(openings), dtype=torch.long)

    def put(self, position: int) -> Tensor:
        """Set the tokens at ``position`` and return them, ``(sequences, 1)``."""
        for row, queue in enumerate(self._pending):
            token = queue.pop(0) if queue else int(self.sampled[row])
            self.ids[row, position] = token
            if token in self._stop and not queue:
                self._pending[row] = list(self._openings[row])
        return self.ids[:, position : position + 1]


def sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token of each row's distribution, ``(n,)``, from logits ``(n, vocabulary)`` and one random number per row."""
    # float64, because a running sum of so many small float32 numbers would lose the rarest tokens.
    running = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    drawn = torch.rand(len(running), 1, generator=generator, dtype=torch.float64) * running[:, -1:]
    return torch.searchsorted(running, drawn, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)
