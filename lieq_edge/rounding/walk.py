"""Round block after block with error feedback, and yield the tensors in the plan's order.

A step rounds one block: ``following`` measures H behind the rounded blocks before it, ``alone`` reads the stored H of
the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Protocol

import torch

from ..allocation.plan import TensorPlan
from ..blockwise.workers import Workers
from ..evidence.loss.hessians import BlockHessians
from ..evidence.loss.losses import TypeLoss
from ..evidence.loss.measure import OriginalStream
from ..gguf.names import block_of
from ..llama.encoders import Packed
from ..sources.base import Array, Source
from ..store import Cache, Entry, Run, Steps
from ..store.entry import Arrays
from .alone import Alone
from .base import RoundingTask
from .encode import encode_tensor
from .following import Following
from .group import prepare_matrices


def encode_blocks(task: RoundingTask) -> Iterator[tuple[TensorPlan, Packed]]:
    """Encode every tensor in the plan's order; matrices of blocks with error feedback.

    Yields:
        Each tensor's plan and its bytes, uint8 ``(rows, bytes of a row)``.
    """
    loss = task.loss
    assert loss is not None
    plans = {tensor.name: tensor for tensor in task.plan.tensors}
    with torch.no_grad(), Workers(task.threads) as workers:
        step: Step
        if isinstance(loss.original, BlockHessians):
            step = Alone(task.source, plans, loss.original, loss, workers)
        else:
            assert isinstance(loss.original, OriginalStream)
            step = Following(plans, loss, loss.original, workers)
        blocks = _Blocks(step, task.source.n_blocks, task.run)
        done = 0
        packed: dict[str, Packed] = {}
        for tensor in task.plan.tensors:
            # Blocks come in order; the first tensor of one asks for all of it.
            block = block_of(tensor.name)
            while block is not None and block >= done:
                packed |= blocks.round(done)
                done += 1
            if tensor.name in packed:
                yield tensor, packed.pop(tensor.name)
            elif choice := loss.losses.get(tensor.name, {}).get(tensor.type):
                hessian = loss.outer[tensor.name]
                yield tensor, _round_outer(task.source, tensor, hessian, choice, task.threads, task.cache)
            else:
                array = task.source.read(tensor.name)
                yield tensor, encode_tensor(array, tensor, task.importances, threads=task.threads)


class Step(Protocol):
    """Rounds blocks in their order.

    Attributes:
        state: arrays that the next block needs from those before it; None before the first block.
    """

    state: Arrays | None

    def block(self, index: int) -> dict[str, Packed]:
        """Round the next block.

        Returns:
            Bytes of its matrices, by GGUF name.
        """


class _Blocks:
    """Rounds one block after the other, or reads blocks that an interrupted run has rounded."""

    def __init__(self, step: Step, count: int, run: Run) -> None:
        self._step = step
        self._steps = Steps(run, range(count))
        if self._steps.state is not None:
            # A copy in PyTorch's memory, because it changes in place and sums may depend on its alignment.
            arrays = self._steps.state.arrays
            self._step.state = {name: torch.from_numpy(array).clone().numpy() for name, array in arrays.items()}

    def round(self, index: int) -> dict[str, Packed]:
        """Bytes of the matrices of block ``index``, by GGUF name; blocks are taken in order."""
        if self._steps.is_done(index):
            stored = self._steps.result(index)
            if stored is not None:
                return stored.arrays
            self._steps.forget()
            self._step.state = None
        packed: dict[str, Packed] = {}
        # One block, unless a stored one is damaged: then all are rounded again.
        for step in [step for step in self._steps.remaining if step <= index]:
            packed = self._step.block(step)
            self._steps.finish(step, Entry(packed), self._step.state or {})
        return packed


def _round_outer(
    source: Source, tensor: TensorPlan, hessian: Array, choice: TypeLoss, threads: int | None, cache: Cache
) -> Packed:
    """Bytes of a matrix outside the blocks, from the cache if another budget gave it the same type."""

    def make() -> Entry:
        name = tensor.name
        matrices = {name: source.read(name)}
        prepared = prepare_matrices(matrices, {name: tensor.type}, {name: choice}, hessian.copy())[name]
        return Entry({"packed": prepared.round(threads=threads, keep_values=False)[0]})

    parts = {"tensor": tensor.name, "type": tensor.type, "choice": asdict(choice), "hessian": hessian}
    return cache.entry("outer-rounding", parts, make).arrays["packed"]
