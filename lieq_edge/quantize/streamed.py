"""Round block after block with error feedback, each measured through all that is already rounded.

Linears that read the same input share its H and are rounded together, in the order in which a block runs them; those
that write to the residual stream make up for its drift (``drift``).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..allocate.plan import Plan, TensorPlan
from ..cache import NO_CACHE, Cache, Entry, Run, Steps
from ..resources import WIDE, give_back_memory
from ..source.base import Array, Source
from . import ggml
from .collecting import Collecting, Received
from .feedback import DAMPING, round_by_factor
from .ggml import Packed
from .sensitivity import Losses, Sensitivity, TypeLoss, predict_tensors
from .statistics import CrossMoments, Moments, count_held_out, held_out_sequences, importance_of
from .tensors import Importance, encode_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..measure.loss_weights import LossWeights, Readers
    from ..measure.model import BlockModel
    from ..measure.residual import ResidualStream, Written
    from .kept_inputs import KeptInputs
    from .rounding.factor import Factor
    from .workers import Workers


# Rows that a worker rounds at a time: not fewer, for each step is a call, and not more, so that all have work. The
# bytes may depend on this, and so it depends on nothing but the matrices.
_FEWEST_ROWS = 384
_MOST_ROWS = 1536
# With wide rows no more weights than these, which several float32 arrays of a worker are as large as.
_MOST_WEIGHTS = 1 << 22


@dataclass(frozen=True)
class FeedbackInputs:
    """What rounding with feedback needs beside the plan.

    Attributes:
        model: in full precision; its blocks must not be kept in memory, for they are overwritten.
        tokens: the calibration windows ``(n, T)``.
        weights: of the loss on them.
        sensitivity: rounding by tensor and type, judged on held-out sequences, and H of the matrices
            outside the blocks. Block matrices that it leaves out are judged when their turn comes.
        original: the residual stream of the model on the tokens, inside blocks too; None when nobody kept it.
    """

    model: BlockModel
    tokens: Tensor
    weights: LossWeights
    sensitivity: Sensitivity
    original: ResidualStream | None = None


def rounding_parts(plan: Plan, inputs: FeedbackInputs) -> dict[str, Any]:
    """What the bytes of ``encode_streamed`` depend on beside the model."""
    losses = inputs.sensitivity.losses
    chosen = {t.name: asdict(losses[t.name][t.type]) for t in plan.tensors if t.type in losses.get(t.name, {})}
    return {
        "types": [[tensor.name, tensor.type] for tensor in plan.tensors],
        "tokens": inputs.tokens,
        "weights": [list(inputs.weights.tokens), list(inputs.weights.tokens.values()), inputs.weights.channels],
        "choices": chosen,
        "outer": inputs.sensitivity.outer,
    }


def encode_streamed(
    source: Source,
    plan: Plan,
    importance: Importance,
    inputs: FeedbackInputs,
    *,
    threads: int | None = None,
    run: Run | None = None,
    cache: Cache = NO_CACHE,
) -> Iterator[tuple[TensorPlan, Packed]]:
    """Encode every tensor in the plan's order; block matrices with error feedback.

    Args:
        source: of the weights.
        plan: the types.
        importance: for matrices that take no part in the loss weights.
        inputs: for the feedback.
        threads: tensors that are rounded at a time, None for one a core; the bytes do not depend on it.
        run: where to keep what is done, and to go on from; a run for these arguments only.
        cache: for results of this model.

    Yields:
        The tensor's plan and its bytes.
    """
    import torch

    from .workers import Workers

    run = run or Run(None)
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    with torch.no_grad(), Workers(threads) as workers, _original(inputs) as original:
        blocks = _Blocks(by_name, inputs, original, workers, run)
        done = 0
        packed: dict[str, Packed] = {}
        for tensor in plan.tensors:
            # Blocks come in order; the first tensor of one asks for all of it.
            parts = tensor.name.split(".")
            while parts[0] == "blk" and int(parts[1]) >= done:
                packed |= blocks.round(done)
                done += 1
            if tensor.name in packed:
                yield tensor, packed.pop(tensor.name)
            elif choice := inputs.sensitivity.losses.get(tensor.name, {}).get(tensor.type):
                yield (
                    tensor,
                    _round_outer(source, tensor, inputs.sensitivity.outer[tensor.name], choice, threads, cache),
                )
            else:
                yield tensor, encode_tensor(source.read(tensor.name), tensor, importance, threads=threads)


@contextlib.contextmanager
def _original(inputs: FeedbackInputs) -> Iterator[ResidualStream]:
    """The original's residual stream, kept for this rounding alone where nobody kept it before."""
    from ..measure.precision import quick_products
    from ..measure.residual import ResidualStream

    if inputs.original is not None:
        yield inputs.original
        return
    with tempfile.TemporaryDirectory(prefix="lieq-stream.") as folder, Run(Path(folder)) as run:
        original = ResidualStream(inputs.model, inputs.tokens, run, inside=True)
        with quick_products():
            original.forward()
        yield original


class _Blocks:
    """Rounds one block after the other, or takes what an interrupted run has rounded."""

    def __init__(
        self,
        plans: Mapping[str, TensorPlan],
        inputs: FeedbackInputs,
        original: ResidualStream,
        workers: Workers,
        run: Run,
    ) -> None:
        self._plans = plans
        self._inputs = inputs
        self._workers = workers
        self._steps = Steps(run, range(inputs.model.n_blocks))
        self._original = original
        self._hidden: Tensor | None = None

    def round(self, index: int) -> dict[str, Packed]:
        """The matrices of block ``index`` by GGUF name; blocks are asked for in order."""
        if self._steps.is_done(index):
            kept = self._steps.result(index)
            if kept is not None:
                return kept.arrays
            self._steps.forget()
            self._hidden = None
        packed: dict[str, Packed] = {}
        # One block, unless what was kept of earlier ones is damaged: then all of them are rounded once more.
        for step in [step for step in self._steps.remaining if step <= index]:
            hidden = self._enter()
            packed = _round_block(step, self._plans, hidden, self._original, self._inputs, self._workers)
            self._steps.finish(step, Entry(packed), {"hidden": hidden.numpy()})
        return packed

    def _enter(self) -> Tensor:
        """What enters the next block behind rounded blocks."""
        if self._hidden is None:
            import torch

            state = self._steps.state
            if state is None:
                self._hidden = self._inputs.model.embed(self._inputs.tokens).clone()
            else:
                self._hidden = torch.from_numpy(state.arrays["hidden"]).clone()
            self._inputs.model.release_outer()
        return self._hidden


def _round_outer(
    source: Source, tensor: TensorPlan, moments: Array, choice: TypeLoss, threads: int | None, cache: Cache
) -> Packed:
    """A matrix outside the blocks. It depends on no other, so another budget that gives it this type takes it over."""

    def make() -> Entry:
        matrix = source.read(tensor.name)
        factor, importance = _factor(moments.copy(), [choice])
        prepared = _Prepared(matrix, tensor.type, factor, importance)
        return Entry({"packed": prepared.round(threads=threads, keep_values=False)[0]})

    parts = {"tensor": tensor.name, "type": tensor.type, "choice": asdict(choice), "moments": moments}
    return cache.entry("outer-rounding", parts, make).arrays["packed"]


def _round_block(
    index: int,
    plans: Mapping[str, TensorPlan],
    hidden: Tensor,
    original: ResidualStream,
    inputs: FeedbackInputs,
    workers: Workers,
) -> dict[str, Packed]:
    """Round the matrices of a block; ``hidden`` becomes its output with the rounded weights."""
    from ..measure.precision import quick_products
    from .kept_inputs import KeptInputs, seeing_inputs

    model, losses = inputs.model, inputs.sensitivity.losses
    give_back_memory(model.columns)
    kept = KeptInputs(len(inputs.tokens))
    with quick_products():
        targets = original.written(index)
    with model.block(index) as module:
        linears = model.linears(module, index)
        with quick_products(), kept.finding_ends(module, linears), seeing_inputs(linears) as seen:
            model.run_block(module, index, hidden[:1])

        def work(piece: tuple[str, slice]) -> tuple[Packed, Array]:
            name, rows = piece
            return prepared[name].round(rows)

        def prepare(readers: Readers) -> dict[str, _Prepared]:
            own = {name: plans[name].type for name in readers}
            left = {name: kinds for name, kinds in unjudged.items() if name in readers}
            given = moments.pop(readers), crosses.pop(readers, None)
            # A worker must not wait for others.
            return _prepare(own, left, linears, *given, inputs, None if several else workers)

        packed: dict[str, Packed] = {}
        for together in _sharing(inputs.weights.readers(index), seen):
            names = [name for readers in together for name in readers]
            unjudged = {name: [plans[name].type] for name in names if plans[name].type not in losses.get(name, {})}
            with quick_products():
                measured = _measure(module, index, hidden, inputs, together, targets, kept, judged=not unjudged)
            moments, crosses = measured
            columns = linears[names[0]].in_features
            if columns >= WIDE:
                give_back_memory()
            several = len(together) > 1 and columns < WIDE
            with workers.for_columns(columns):
                found = workers.map(prepare, together) if several else [prepare(readers) for readers in together]
            prepared = {name: one for part in found for name, one in part.items()}
            del found
            pieces = _pieces(prepared)
            rounded: dict[str, list[tuple[Packed, Array]]] = {name: [] for name in names}
            for (name, _), done in zip(pieces, workers.map(work, pieces), strict=True):
                rounded[name].append(done)
            prepared.clear()  # the factor is as large as H
            for name, parts in rounded.items():
                packed[name] = np.concatenate([part for part, _ in parts])
                values = np.concatenate([part for _, part in parts])
                linears[name].weight.copy_(model.parameter(name, values))
        with quick_products():
            model.advance(module, index, hidden, kept.used)
    return packed


def _sharing(readers: Sequence[Readers], seen: Mapping[str, Tensor]) -> list[list[Readers]]:
    """``readers`` in their order, those together that follow each other and receive the same tensor."""
    found: list[list[Readers]] = []
    for names in readers:
        if found and seen[found[-1][0][0]] is seen[names[0]]:
            found[-1].append(names)
        else:
            found.append([names])
    return found


def _measure(
    module: nn.Module,
    index: int,
    hidden: Tensor,
    inputs: FeedbackInputs,
    together: Sequence[Readers],
    targets: Written | None,
    kept: KeptInputs,
    *,
    judged: bool,
) -> tuple[dict[Readers, Moments], dict[Readers, CrossMoments]]:
    """H of linears that read the same, behind all that is rounded; C of one in ``targets`` with what it should give.

    H is not divided when all these linears' rounding is settled, ``judged``, unless C is judged.
    """
    from ..measure.sixteen_bits import turned_once
    from .drift import Stream
    from .kept_inputs import input_of

    model = inputs.model
    linears = model.linears(module, index)
    writers = list(targets.streams) if targets else []
    first = together[0][0]
    # What writes to the stream reads an input of its own.
    writer = first if targets and first in writers else None
    collecting = Collecting(held_out_sequences(len(inputs.tokens)), divided=writer is not None or not judged)
    # What other matrices have written to the stream before.
    before = writers[: writers.index(writer)] if writer else []
    with turned_once(module):
        for batch in model.batches(inputs.tokens.shape):
            stream = Stream(targets, batch, hidden[batch]) if targets and writer else None
            ran = dict.fromkeys(before, stream.write) if stream else {}
            with kept.used(batch):
                x = input_of(model, module, index, hidden[batch], first, ran)
            wanted = stream.missing(writer) if stream and writer else None
            if wanted is not None and linears[first].bias is not None:
                wanted -= linears[first].bias
            for names in together:
                for name in names:
                    kept.keep(name, batch, x)
            collecting.add(
                batch, {names: Received(x, inputs.weights.tokens[names][batch], wanted) for names in together}
            )
    return collecting.done()


def _prepare(
    types: Mapping[str, str],
    unjudged: Mapping[str, Sequence[str]],
    linears: Mapping[str, nn.Linear],
    moments: Moments,
    cross: CrossMoments | None,
    inputs: FeedbackInputs,
    workers: Workers | None,
) -> dict[str, _Prepared]:
    """Matrices that read the same, to be rounded to their ``types``, with what they should make up for.

    The types of ``unjudged`` ones are judged first.
    """
    from ..measure.precision import quick_products
    from .drift import correction
    from .rounding.factor import factorise

    names = list(types)
    # Rows in llama.cpp's order, which may differ from the module's; they are rounded one by one.
    matrices = {name: inputs.model.source.read(name) for name in names}
    # The module's rows, whose order is that of the channels.
    weights = {name: linears[name].weight.numpy() for name in names}
    channels = {name: inputs.weights.channels[name].numpy() for name in names}
    losses = inputs.sensitivity.losses
    found: Losses = {}
    if cross is not None:
        cross.subtract(weights[names[0]], moments)
    if cross is not None or unjudged:
        factor = factorise(moments.learned, DAMPING, in_place=True)
        found = predict_tensors(weights, moments, channels, count_held_out(inputs.tokens.shape), unjudged, factor)
        if cross is not None:
            # No family turns rows or columns of what writes to the residual stream.
            matrices[names[0]] = matrices[names[0]] + correction(factor, moments, cross, channels[names[0]], workers)
        factor.undamp()
        del factor  # as large as H
    choices = {name: (found if name in unjudged else losses)[name][kind] for name, kind in types.items()}
    with quick_products():
        merged = moments.merge()
    shared, importance = _factor(merged, list(choices.values()))
    return {
        name: _Prepared(matrices[name], kind, shared if choices[name].rounding == "feedback" else None, importance)
        for name, kind in types.items()
    }


def _factor(moments: Array, choices: Sequence[TypeLoss]) -> tuple[Factor | None, Array]:
    """The factor of H, whose memory is taken, where it is needed, and the importance of the columns."""
    from .rounding.factor import factorise

    importance = importance_of(moments.diagonal().copy())
    needed = any(choice.rounding == "feedback" for choice in choices)
    return factorise(moments, DAMPING, in_place=True) if needed else None, importance


def _pieces(prepared: Mapping[str, _Prepared]) -> list[tuple[str, slice]]:
    """Rows to be rounded at a time, so that all workers have work where there is a single matrix."""
    rows = sum(len(matrix.matrix) for matrix in prepared.values())
    columns = max(matrix.matrix.shape[1] for matrix in prepared.values())
    step = max(_FEWEST_ROWS, min(rows // 2, _MOST_ROWS, _MOST_WEIGHTS // columns))
    return [
        (name, slice(start, start + step))
        for name, matrix in prepared.items()
        for start in range(0, len(matrix.matrix), step)
    ]


@dataclass(frozen=True)
class _Prepared:
    """A matrix that can be rounded, some rows at a time: by feedback or, where that was judged worse, by importance."""

    matrix: Array
    type_name: str
    factor: Factor | None
    importance: Array

    def round(
        self, rows: slice = slice(None), threads: int | None = 1, *, keep_values: bool = True
    ) -> tuple[Packed, Array]:
        """Bytes and decoded values of some rows."""
        matrix = self.matrix[rows]
        if self.factor is not None:
            rounded = round_by_factor(matrix, self.factor, self.type_name, threads=threads, keep_values=keep_values)
            return rounded.packed, rounded.values
        packed = ggml.encode(matrix, self.type_name, self.importance, threads)
        if not keep_values:
            return packed, matrix[:0]
        return packed, ggml.dequantize(packed, self.type_name, (matrix.shape[0], matrix.shape[1]))
