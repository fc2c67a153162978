"""The original's residual stream, put away on its way through the blocks because later work needs it again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..store import Entry, Run, Steps
from ..system.memory import is_little_memory
from .model import BlockModel
from .sixteen_bits import cast_once

# A block counts as one that adds two outputs to its input when these leave no more of its change unexplained.
_UNEXPLAINED = 1e-3


@dataclass(frozen=True)
class Stored:
    """Hidden states ``(n, T, d)`` as they are put away.

    Where products are in bfloat16 they have 16 bits, an eighth as coarse as bfloat16's: float16 times a power of two
    that keeps the largest in its range.

    Attributes:
        values: float32, or float16 that was divided by ``2 ** exponent``.
        exponent: 0 for float32.
    """

    values: Tensor
    exponent: int

    @classmethod
    def of(cls, hidden: Tensor) -> Stored:
        """``hidden`` in float32 itself, or rounded to 16 bits, and then ``hidden`` is rounded as well."""
        if not _are_quick():
            return cls(hidden, 0)
        largest = float(torch.stack(hidden.aminmax()).abs().max())
        # float16 ends at 65,504. Below a billionth of the largest, its numbers lie less close.
        exponent = max(math.frexp(largest)[1] - 15, -100) if math.isfinite(largest) else 0
        stored = cls(torch.empty(hidden.shape, dtype=torch.float16), exponent)
        for place, sequence in enumerate(hidden):
            stored.values[place] = sequence * 2.0**-exponent
            hidden[place] = stored[slice(place, place + 1)][0]
        return stored

    @classmethod
    def of_entry(cls, entry: Entry) -> Stored:
        """From ``entry``; in memory of its own, for sums may depend on where in memory numbers lie."""
        return cls(torch.from_numpy(entry.arrays["hidden"]).clone(), entry.record["exponent"])

    def __getitem__(self, sequences: slice) -> Tensor:
        """Some of the sequences, ``(b, T, d)``, in float32."""
        values = self.values[sequences]
        return values.clone() if values.dtype == torch.float32 else values.float().mul_(2.0**self.exponent)


@dataclass(frozen=True)
class Written:
    """The residual stream of the original, where a block writes to it.

    Attributes:
        streams: behind each matrix that writes, in the order in which they do, by GGUF name.
        scale: what outputs are multiplied by on their way into the stream (Granite); 1 for most.
    """

    streams: dict[str, Stored]
    scale: float


class _Shelf:
    """Where states wait: in the memory of this process, which knows of it, or in the files of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.in_memory = False
        self._held: dict[str, tuple[Stored, Any]] = {}

    def put(self, name: str, stored: Stored, record: Any = None, *, needed: bool = True) -> None:
        """Put away a state that nobody changes any more; a file only if there is room, unless it is ``needed``."""
        if self.in_memory:
            self._held[name] = stored, record
            return
        keep = self.run.spill if needed else self.run.save
        keep(name, {"hidden": stored.values.numpy()}, {"exponent": stored.exponent, "about": record})

    def get(self, name: str) -> tuple[Stored, Any] | None:
        """A state and its record; None when it is not there."""
        if name in self._held:
            return self._held[name]
        kept = self.run.fetch(name)
        return (Stored.of_entry(kept), kept.record["about"]) if kept is not None else None

    def drop(self, name: str) -> None:
        """Forget a state."""
        self._held.pop(name, None)
        self.run.drop(name)

    def let_go(self, name: str) -> None:
        """Forget a state where it takes memory."""
        self._held.pop(name, None)


class ResidualStream:
    """What enters each block, as files: the memory for it is one block's, whatever the depth.

    Where all of it is a small part of the memory that is free, it stays there, for files take longer than they are
    worth: an interrupted run then takes its way forward once more.

    What enters a block is rounded to what is put away, so that any block can be run again by itself. An interrupted
    way forward goes on behind the last block that was run; files that are lost are made again.
    """

    def __init__(self, model: BlockModel, tokens: Tensor, run: Run, *, inside: bool = False) -> None:
        """Of token ids ``(n, T)``, kept in ``run``; ``inside`` blocks too, for ``written``, where there is room."""
        self._model = model
        self._tokens = tokens
        self._shelf = _Shelf(run)
        self._inside = inside
        self._last_writers: dict[int, str] = {}

    def forward(self, advance: Callable[[], None] = lambda: None) -> Tensor:
        """Run the tokens through all blocks, unless that is done; the last one's output ``(n, T, d)``.

        Args:
            advance: is called after each block.

        Raises:
            InputError: there is not space enough.
        """
        count = self._model.n_blocks
        last = self._shelf.get(self._name(count))
        if last is not None:
            for _ in range(count):
                advance()
            return last[0][:]
        run = self._shelf.run
        steps = Steps(run, range(count), "forward.")
        done = count - len(steps.remaining)
        state = self._tokens.numel() * int(self._model.config.hidden_size) * (2 if _are_quick() else 4)
        size = state * (len(steps.remaining) + 1)
        self._shelf.in_memory = done == 0 and is_little_memory(2 * size if self._inside else size)
        if not self._shelf.in_memory:
            run.reserve(size)
            self._inside = self._inside and run.takes(2 * size)
        hidden = self.take(done)
        for _ in range(done):
            advance()
        for index in steps.remaining:
            written = self._step(index, hidden, inside=self._inside)
            if self._inside:
                self._keep_inside(index, written)
            self._put(index + 1, hidden)
            if not self._shelf.in_memory:
                steps.finish(index, None, {})
            advance()
        return hidden

    def take(self, index: int) -> Tensor:
        """The input ``(n, T, d)`` of block ``index``; the last block's output when there is no such block."""
        kept = self._shelf.get(self._name(index))
        if kept is not None:
            return kept[0][:]
        if index == 0:
            with torch.no_grad():
                hidden = self._model.embed(self._tokens).clone()
        else:
            hidden = self.take(index - 1)
            self._step(index - 1, hidden, inside=False)
        self._put(index, hidden)
        return hidden

    def drop(self, index: int) -> None:
        """Forget an input that is needed no more."""
        self._shelf.drop(self._name(index))

    def written(self, index: int) -> Written | None:
        """The stream behind what block ``index`` writes to it; the block must not be in memory.

        Blocks are asked for in order: what waits in memory for those before goes.

        None for blocks that do more with those outputs than add them (norms behind them, Gemma 3).
        """
        found = self._kept(index)
        if found is None:
            hidden = self.take(index)
            if not self._shelf.run.resumable:
                # In the folder for temporary files, which may be memory, nothing lies longer than it must.
                self.drop(index)
            found = [self._step(index, hidden, inside=True)]
            if self._shelf.in_memory:
                self._put(index + 1, hidden)
            if found[0] is not None:
                first, last = found[0].streams
                streams = {first: found[0].streams[first], last: Stored.of(hidden)}
                found = [Written(streams, found[0].scale)]
        for before in range(index + 1):
            self._shelf.let_go(f"inside.{before}")
            self._shelf.let_go(self._name(before))
        return found[0]

    def _kept(self, index: int) -> list[Written | None] | None:
        """What ``written`` gives, by itself in a list, if that was kept."""
        inside = self._shelf.get(f"inside.{index}")
        if inside is None:
            return None
        first, record = inside
        if record is None:
            return [None]
        behind = self._shelf.get(self._name(index + 1))
        if behind is None:
            return None
        return [Written(dict(zip(record["writers"], (first, behind[0]), strict=True)), record["scale"])]

    def last_writer(self, index: int) -> str | None:
        """GGUF name of a matrix whose output block ``index`` just adds to the stream at its end.

        None where there is none, or nobody looked.
        """
        return self._last_writers.get(index)

    def _step(self, index: int, hidden: Tensor, *, inside: bool) -> Written | None:
        """Take ``hidden`` through a block; what it is behind the first matrix that writes, if that is wanted."""
        with torch.no_grad(), self._model.block(index) as module:
            if inside:
                return _pass(self._model, module, index, hidden)
            written = _pass(self._model, module, index, hidden[:1].clone())
            if written is not None:
                self._last_writers[index] = list(written.streams)[-1]
            self._model.advance(module, index, hidden)
            return None

    def _put(self, index: int, hidden: Tensor) -> None:
        """Put away what enters block ``index``, rounding ``hidden``, which may change from here on."""
        stored = Stored.of(hidden)
        if stored.values is hidden and self._shelf.in_memory:
            stored = Stored(hidden.clone(), 0)
        self._shelf.put(self._name(index), stored)

    def _keep_inside(self, index: int, written: Written | None) -> None:
        """Where this cannot be kept, ``written`` runs the block again."""
        name = f"inside.{index}"
        if written is None:
            self._shelf.put(name, Stored(torch.empty(0), 0), needed=False)
            return
        self._last_writers[index] = list(written.streams)[-1]
        first = next(iter(written.streams.values()))
        record = {"writers": list(written.streams), "scale": written.scale}
        self._shelf.put(name, first, record, needed=False)

    @staticmethod
    def _name(index: int) -> str:
        return f"input.{index}"


def _pass(model: BlockModel, module: nn.Module, index: int, hidden: Tensor) -> Written | None:
    """Take ``hidden`` ``(n, T, d)`` through a block, in place.

    Returns:
        The stream behind the first matrix that writes to it, and the place of the second, whose stream is ``hidden``;
        None where the block does more than add their outputs.
    """
    linears = model.linears(module, index)
    writers = [f"blk.{index}.attn_output.weight", f"blk.{index}.ffn_down.weight"]
    if not all(name in linears for name in writers):
        model.advance(module, index, hidden)
        return None
    scale: float | None = None
    first = torch.empty_like(hidden)
    outputs: dict[str, Tensor] = {}

    def keep(name: str, out: Tensor) -> None:
        outputs[name] = out.float()

    hooks = [linears[n].register_forward_hook(lambda _, __, out, n=n: keep(n, out)) for n in writers]
    try:
        with cast_once(module):
            for batch in model.batches(hidden.shape):
                entered = hidden[batch]
                left = model.run_block(module, index, entered)
                if batch.start == 0:
                    writers = list(outputs)  # in the order in which they write
                    scale = _scale(left - entered, outputs[writers[0]] + outputs[writers[1]])
                if scale is not None:
                    torch.add(entered, outputs[writers[0]], alpha=scale, out=first[batch])
                hidden[batch] = left
    finally:
        for hook in hooks:
            hook.remove()
    if scale is None:
        return None
    return Written({writers[0]: Stored.of(first), writers[1]: Stored(hidden, 0)}, scale)


def _scale(change: Tensor, outputs: Tensor) -> float | None:
    """What ``outputs`` are multiplied by to be ``change``; None when nothing makes them that."""
    energy = float(outputs.square().sum())
    scale = float((change * outputs).sum()) / energy if energy > 0 else 0.0
    unexplained = float((change - scale * outputs).square().sum()) / max(float(change.square().sum()), 1e-30)
    return scale if scale != 0 and unexplained < _UNEXPLAINED**2 else None


def _are_quick() -> bool:
    return torch.is_autocast_enabled("cpu")
