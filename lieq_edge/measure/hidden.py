"""What enters each block, put away on the way forward because the way back needs it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from ..cache import Run, Steps
from .model import BlockModel


class BlockInputs:
    """Hidden states between blocks, one file each: the memory for them is one block's, whatever the depth.

    Files are in bfloat16 where products are (``precision.quick_products``), for then the block that is run again rounds
    most of what it reads to that anyway; on the way forward they stay float32. An interrupted way forward goes on from
    where its states were kept last. Files that are lost are made again.
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
        last = self._run.fetch(self._name(count))
        if last is not None:
            for _ in range(count):
                advance()
            return _unpacked(last.arrays["hidden"])
        steps = Steps(self._run, range(count), "forward.")
        hidden = self._embedded() if steps.state is None else _unpacked(steps.state.arrays["hidden"])
        size = 2 if _are_quick() else 4
        self._run.reserve(hidden.numel() * (size * len(steps.remaining) + 4))
        for _ in range(count - len(steps.remaining)):
            advance()
        for index in steps.remaining:
            self._run.spill(self._name(index), {"hidden": _packed(hidden)})
            self._step(index, hidden)
            steps.finish(index, None, {"hidden": hidden.numpy()})
            advance()
        self._run.spill(self._name(count), {"hidden": hidden.numpy()})
        steps.forget()
        return hidden

    def take(self, index: int) -> Tensor:
        """The input ``(n, T, d)`` of block ``index``; the last block's output when there is no such block."""
        kept = self._run.fetch(self._name(index))
        if kept is not None:
            return _unpacked(kept.arrays["hidden"])
        hidden = self._embedded()
        for before in range(index):
            self._step(before, hidden)
        return hidden if index == self._model.n_blocks else _unpacked(_packed(hidden))

    def drop(self, index: int) -> None:
        """Forget an input that is needed no more."""
        self._run.drop(self._name(index))

    def _embedded(self) -> Tensor:
        with torch.no_grad():
            return self._model.embed(self._tokens).clone()

    def _step(self, index: int, hidden: Tensor) -> None:
        with torch.no_grad(), self._model.block(index) as module:
            self._model.advance(module, index, hidden)

    @staticmethod
    def _name(index: int) -> str:
        return f"input.{index}"


def _are_quick() -> bool:
    return torch.is_autocast_enabled("cpu")


def _packed(hidden: Tensor) -> npt.NDArray[Any]:
    """As it is put away: the bits of bfloat16, which numpy does not have, where products are in it."""
    return (hidden.bfloat16().view(torch.int16) if _are_quick() else hidden).numpy()


def _unpacked(array: npt.NDArray[Any]) -> Tensor:
    """In float32, and in memory of its own, for sums may depend on where in memory numbers lie."""
    hidden = torch.from_numpy(array)
    return hidden.view(torch.bfloat16).float() if hidden.dtype == torch.int16 else hidden.clone()
