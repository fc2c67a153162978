"""What enters each block, put away on the way forward because the way back needs it again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cache import Run
from .model import BlockModel


class BlockInputs:
    """Hidden states between blocks, one file each, float32: the memory for them is one block's, whatever the depth.

    Those that are there from an interrupted run are not computed again; one that is lost is made from the one before.
    """

    def __init__(self, model: BlockModel, tokens: Tensor, run: Run) -> None:
        """Of token ids ``(n, T)``, kept in ``run``."""
        self._model = model
        self._tokens = tokens
        self._run = run

    def forward(self, advance: Callable[[], None]) -> Tensor:
        """Run the tokens through all blocks; the last one's output ``(n, T, d)``.

        Args:
            advance: is called after each block.

        Raises:
            InputError: there is not space enough.
        """
        count = self._model.n_blocks
        there = next((index for index in range(count + 1) if not self._run.has(self._name(index))), count + 1)
        start = max(there - 1, 0)
        hidden = self.take(start)
        self._run.reserve(4 * hidden.numel() * (count + 1 - there))
        if there == 0:
            self._put(0, hidden)
        for _ in range(start):
            advance()
        for index in range(start, count):
            self._step(index, hidden)
            self._put(index + 1, hidden)
            advance()
        return hidden

    def take(self, index: int) -> Tensor:
        """The input ``(n, T, d)`` of block ``index``; the last block's output when there is no such block."""
        kept = self._run.fetch(self._name(index))
        if kept is not None:
            # A copy, for sums may depend on where in memory numbers lie.
            return torch.from_numpy(kept.arrays["hidden"]).clone()
        if index == 0:
            with torch.no_grad():
                return self._model.embed(self._tokens).clone()
        hidden = self.take(index - 1)
        self._step(index - 1, hidden)
        return hidden

    def drop(self, index: int) -> None:
        """Forget an input that is needed no more."""
        self._run.drop(self._name(index))

    def _step(self, index: int, hidden: Tensor) -> None:
        with torch.no_grad(), self._model.block(index) as module:
            self._model.advance(module, index, hidden)

    def _put(self, index: int, hidden: Tensor) -> None:
        self._run.spill(self._name(index), {"hidden": hidden.numpy()})

    @staticmethod
    def _name(index: int) -> str:
        return f"input.{index}"
