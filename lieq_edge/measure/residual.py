"""The original's residual stream, put away on its way through the blocks because later work needs it again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..cache import Entry, Run, Steps
from .model import BlockModel
from .sixteen_bits import turned_once

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


class ResidualStream:
    """What enters each block, one file each: the memory for it is one block's, whatever the depth.

    What enters a block is rounded to what its file holds, so that any block can be run again by itself. An interrupted
    way forward goes on behind the last block that was run; files that are lost are made again.
    """

    def __init__(self, model: BlockModel, tokens: Tensor, run: Run, *, inside: bool = False) -> None:
        """Of token ids ``(n, T)``, kept in ``run``; ``inside`` blocks too, for ``written``, where there is room."""
        self._model = model
        self._tokens = tokens
        self._run = run
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
        last = self._run.fetch(self._name(count))
        if last is not None:
            for _ in range(count):
                advance()
            return Stored.of_entry(last)[:]
        steps = Steps(self._run, range(count), "forward.")
        hidden = self.take(count - len(steps.remaining))
        size = hidden.numel() * (2 if _are_quick() else 4) * (len(steps.remaining) + 1)
        self._run.reserve(size)
        self._inside = self._inside and self._run.takes(2 * size)
        for _ in range(count - len(steps.remaining)):
            advance()
        for index in steps.remaining:
            written = self._step(index, hidden, inside=self._inside)
            if self._inside:
                self._keep_inside(index, written)
            self._put(index + 1, Stored.of(hidden))
            steps.finish(index, None, {})
            advance()
        return hidden

    def take(self, index: int) -> Tensor:
        """The input ``(n, T, d)`` of block ``index``; the last block's output when there is no such block."""
        kept = self._run.fetch(self._name(index))
        if kept is not None:
            return Stored.of_entry(kept)[:]
        if index == 0:
            with torch.no_grad():
                hidden = self._model.embed(self._tokens).clone()
        else:
            hidden = self.take(index - 1)
            self._step(index - 1, hidden, inside=False)
        self._put(index, Stored.of(hidden))
        return hidden

    def drop(self, index: int) -> None:
        """Forget an input that is needed no more."""
        self._run.drop(self._name(index))

    def written(self, index: int) -> Written | None:
        """The stream behind what block ``index`` writes to it; the block must not be in memory.

        None for blocks that do more with those outputs than add them (norms behind them, Gemma 3).
        """
        kept = self._run.fetch(f"inside.{index}")
        if kept is not None and kept.record is None:
            return None
        behind = self._run.fetch(self._name(index + 1)) if kept is not None else None
        if kept is not None and behind is not None:
            first, last = kept.record["writers"]
            return Written({first: Stored.of_entry(kept), last: Stored.of_entry(behind)}, kept.record["scale"])
        hidden = self.take(index)
        if not self._run.resumable:
            # In the folder for temporary files, which may be memory, nothing lies longer than it must.
            self.drop(index)
        found = self._step(index, hidden, inside=True)
        if found is None:
            return None
        first, last = found.streams
        return Written({first: found.streams[first], last: Stored.of(hidden)}, found.scale)

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
            self._model.advance(module, index, hidden)
            return None

    def _put(self, index: int, stored: Stored) -> None:
        self._run.spill(self._name(index), {"hidden": stored.values.numpy()}, {"exponent": stored.exponent})

    def _keep_inside(self, index: int, written: Written | None) -> None:
        """Where this cannot be kept, ``written`` runs the block again."""
        if written is None:
            self._run.save(f"inside.{index}", {}, None)
            return
        self._last_writers[index] = list(written.streams)[-1]
        first = next(iter(written.streams.values()))
        record = {"exponent": first.exponent, "writers": list(written.streams), "scale": written.scale}
        self._run.save(f"inside.{index}", {"hidden": first.values.numpy()}, record)

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
        with turned_once(module):
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
