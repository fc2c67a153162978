"""The original's residual stream, stored at the input of each block because rounding needs it again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..gguf.names import block_tensor
from ..store import Entry, Run, Steps
from ..system.memory import is_little_memory
from .model import BlockModel
from .sixteen_bits import cast_once

# Largest relative part of a block's change that two outputs may leave unexplained if the block is to count as one that
# just adds them.
_UNEXPLAINED = 1e-3
# Roles of the matrices that write to the residual stream.
_WRITERS = ("attn_output", "ffn_down")


@dataclass(frozen=True)
class StoredStates:
    """Hidden states ``(n, T, d)`` in the precision in which they are stored.

    If products are in bfloat16 this is float16 times a power of two that keeps the largest value in range, with steps
    an eighth as large as those of bfloat16.

    Attributes:
        values: float32, or float16 after division by ``2 ** exponent``.
        exponent: 0 for float32.
    """

    values: Tensor
    exponent: int

    @classmethod
    def of(cls, hidden: Tensor) -> StoredStates:
        """``hidden`` itself in float32, or rounded to 16 bits; ``hidden`` is then rounded in place too."""
        if not _in_bfloat16():
            return cls(hidden, 0)
        largest = float(torch.stack(hidden.aminmax()).abs().max())
        # float16 ends at 65,504. Its relative precision falls below a billionth of the largest value.
        exponent = max(math.frexp(largest)[1] - 15, -100) if math.isfinite(largest) else 0
        stored = cls(torch.empty(hidden.shape, dtype=torch.float16), exponent)
        for place, sequence in enumerate(hidden):
            stored.values[place] = sequence * 2.0**-exponent
            hidden[place] = stored[slice(place, place + 1)][0]
        return stored

    @classmethod
    def of_entry(cls, entry: Entry) -> StoredStates:
        """The states of ``entry``, copied, because sums may depend on the alignment of their terms in memory."""
        return cls(torch.from_numpy(entry.arrays["hidden"]).clone(), entry.record["exponent"])

    def __getitem__(self, sequences: slice) -> Tensor:
        """A copy of some of the sequences, ``(b, T, d)``, in float32."""
        values = self.values[sequences]
        return values.clone() if values.dtype == torch.float32 else values.float().mul_(2.0**self.exponent)


@dataclass(frozen=True)
class Written:
    """The residual stream of the original after each matrix of a block that writes to it.

    Attributes:
        streams: states after each such matrix, in their order, by GGUF name.
        scale: factor of outputs before they are added to the stream (Granite); 1 for most models.
    """

    streams: dict[str, StoredStates]
    scale: float


class _Storage:
    """States by name, in the memory of this process or in the files of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.in_memory = False
        self._in_process: dict[str, tuple[StoredStates, Any]] = {}

    def put(self, name: str, states: StoredStates, record: Any = None, *, needed: bool = True) -> None:
        """Store states that no longer change; states that are not ``needed`` are dropped if there is no space."""
        if self.in_memory:
            self._in_process[name] = states, record
            return
        write = self.run.spill if needed else self.run.save
        write(name, {"hidden": states.values.numpy()}, {"exponent": states.exponent, "about": record})

    def get(self, name: str) -> tuple[StoredStates, Any] | None:
        """States and their record; None if they are not stored."""
        if name in self._in_process:
            return self._in_process[name]
        entry = self.run.fetch(name)
        return (StoredStates.of_entry(entry), entry.record["about"]) if entry is not None else None

    def drop(self, name: str) -> None:
        """Delete states."""
        self._in_process.pop(name, None)
        self.run.drop(name)

    def free(self, name: str) -> None:
        """Delete states that are in memory; files stay."""
        self._in_process.pop(name, None)


class ResidualStream:
    """The inputs of all blocks, stored as files, so that memory does not grow with the depth of the model.

    If all inputs are a small part of the free memory they stay there, which saves time; an interrupted run then repeats
    the forward pass.

    The input of a block is rounded to the stored precision, so that any block can be run again by itself. An
    interrupted forward pass resumes after the last block that was run; lost files are computed again.
    """

    def __init__(self, model: BlockModel, tokens: Tensor, run: Run, *, inside: bool = False) -> None:
        """Prepare a stream; no block is run yet.

        Args:
            model: the original.
            tokens: token ids ``(n, T)``.
            run: run in which states are stored.
            inside: also store states inside blocks, for ``written``, if there is space.
        """
        self._model = model
        self._tokens = tokens
        self._storage = _Storage(run)
        self._inside = inside
        self._last_writers: dict[int, str] = {}

    def forward(self, advance: Callable[[], None] = lambda: None) -> Tensor:
        """The last block's output ``(n, T, d)``; runs the tokens through the blocks that were not run yet.

        Args:
            advance: called once per block.

        Raises:
            InputError: there is not enough space.
        """
        count = self._model.n_blocks
        last = self._storage.get(self._name(count))
        if last is not None:
            for _ in range(count):
                advance()
            return last[0][:]
        run = self._storage.run
        steps = Steps(run, range(count), "forward.")
        done = count - len(steps.remaining)
        state = self._tokens.numel() * int(self._model.config.hidden_size) * (2 if _in_bfloat16() else 4)
        size = state * (len(steps.remaining) + 1)
        self._storage.in_memory = done == 0 and is_little_memory(2 * size if self._inside else size)
        if not self._storage.in_memory:
            run.reserve(size)
            self._inside = self._inside and run.takes(2 * size)
        hidden = self.take(done)
        for _ in range(done):
            advance()
        for index in steps.remaining:
            written = self._step(index, hidden, inside=self._inside)
            if self._inside:
                self._store_inside(index, written)
            self._put(index + 1, hidden)
            if not self._storage.in_memory:
                steps.finish(index, None, {})
            advance()
        return hidden

    def take(self, index: int) -> Tensor:
        """The input ``(n, T, d)`` of block ``index``; for the number of blocks, the last block's output."""
        stored = self._storage.get(self._name(index))
        if stored is not None:
            return stored[0][:]
        if index == 0:
            with torch.no_grad():
                hidden = self._model.embed(self._tokens).clone()
        else:
            hidden = self.take(index - 1)
            self._step(index - 1, hidden, inside=False)
        self._put(index, hidden)
        return hidden

    def drop(self, index: int) -> None:
        """Delete an input that is no longer needed."""
        self._storage.drop(self._name(index))

    def written(self, index: int) -> Written | None:
        """The stream after each matrix of block ``index`` that writes to it; the block must not be in memory.

        Must be called in the order of the blocks, because states of earlier blocks in memory are freed.

        None for blocks that do more with these outputs than add them (norms after them, Gemma 3).
        """
        stored = self._stored_inside(index)
        if stored is not None:
            written = stored[0]
        else:
            hidden = self.take(index)
            if not self._storage.run.resumable:
                # The folder for temporary files may be in memory.
                self.drop(index)
            written = self._step(index, hidden, inside=True)
            if self._storage.in_memory:
                self._put(index + 1, hidden)
            if written is not None:
                first, last = written.streams
                written = Written({first: written.streams[first], last: StoredStates.of(hidden)}, written.scale)
        for before in range(index + 1):
            self._storage.free(f"inside.{before}")
            self._storage.free(self._name(before))
        return written

    def _stored_inside(self, index: int) -> tuple[Written | None] | None:
        """The result of ``written`` in a tuple; None if it was not stored."""
        inside = self._storage.get(f"inside.{index}")
        if inside is None:
            return None
        first, record = inside
        if record is None:
            return (None,)
        after = self._storage.get(self._name(index + 1))
        if after is None:
            return None
        return (Written(dict(zip(record["writers"], (first, after[0]), strict=True)), record["scale"]),)

    def last_writer(self, index: int) -> str | None:
        """GGUF name of the matrix whose output block ``index`` just adds to the stream at its end.

        None if there is none, or if the block was not run by this object.
        """
        return self._last_writers.get(index)

    def _step(self, index: int, hidden: Tensor, *, inside: bool) -> Written | None:
        """Run a block on ``hidden``, in place; the stream after its writers if ``inside``, otherwise None."""
        with torch.no_grad(), self._model.block(index) as module:
            if inside:
                return _pass(self._model, module, index, hidden)
            written = _pass(self._model, module, index, hidden[:1].clone())
            if written is not None:
                self._last_writers[index] = list(written.streams)[-1]
            self._model.advance(module, index, hidden)
            return None

    def _put(self, index: int, hidden: Tensor) -> None:
        """Store the input of block ``index`` and round ``hidden``, which may change afterwards."""
        states = StoredStates.of(hidden)
        if states.values is hidden and self._storage.in_memory:
            states = StoredStates(hidden.clone(), 0)
        self._storage.put(self._name(index), states)

    def _store_inside(self, index: int, written: Written | None) -> None:
        """Store the stream inside a block if there is space; otherwise ``written`` runs the block again."""
        name = f"inside.{index}"
        if written is None:
            self._storage.put(name, StoredStates(torch.empty(0), 0), needed=False)
            return
        self._last_writers[index] = list(written.streams)[-1]
        first = next(iter(written.streams.values()))
        record = {"writers": list(written.streams), "scale": written.scale}
        self._storage.put(name, first, record, needed=False)

    @staticmethod
    def _name(index: int) -> str:
        return f"input.{index}"


def _pass(model: BlockModel, module: nn.Module, index: int, hidden: Tensor) -> Written | None:
    """Run a block on ``hidden`` ``(n, T, d)``, in place.

    Returns:
        The stream after both matrices that write to it, where the second one is ``hidden`` itself; None if the block
        does more than add their outputs.
    """
    linears = model.linears(module, index)
    writers = [block_tensor(index, role) for role in _WRITERS]
    if not all(name in linears for name in writers):
        model.advance(module, index, hidden)
        return None
    scale: float | None = None
    first = torch.empty_like(hidden)
    outputs: dict[str, Tensor] = {}

    def record(name: str, out: Tensor) -> None:
        outputs[name] = out.float()

    hooks = [linears[n].register_forward_hook(lambda _, __, out, n=n: record(n, out)) for n in writers]
    try:
        with cast_once(module):
            for batch in model.batches(hidden.shape):
                before = hidden[batch]
                after = model.run_block(module, index, before)
                if batch.start == 0:
                    writers = list(outputs)  # in the order in which they write
                    scale = _scale(after - before, outputs[writers[0]] + outputs[writers[1]])
                if scale is not None:
                    torch.add(before, outputs[writers[0]], alpha=scale, out=first[batch])
                hidden[batch] = after
    finally:
        for hook in hooks:
            hook.remove()
    if scale is None:
        return None
    return Written({writers[0]: StoredStates.of(first), writers[1]: StoredStates(hidden, 0)}, scale)


def _scale(change: Tensor, outputs: Tensor) -> float | None:
    """The factor that makes ``outputs`` equal to ``change``; None if no factor does."""
    energy = float(outputs.square().sum())
    scale = float((change * outputs).sum()) / energy if energy > 0 else 0.0
    unexplained = float((change - scale * outputs).square().sum()) / max(float(change.square().sum()), 1e-30)
    return scale if scale != 0 and unexplained < _UNEXPLAINED**2 else None


def _in_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu")
