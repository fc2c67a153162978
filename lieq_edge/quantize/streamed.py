"""Round block after block with error feedback, each measured through all that is already rounded.

Linears that read the same input are rounded together, in the order in which a block runs them; those that write to the
residual stream make up for its drift (``drift``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..allocate.plan import Plan, TensorPlan
from ..cache import NO_CACHE, Cache, Entry, Run, Steps
from ..resources import give_back_memory
from ..source.base import Array, Source
from . import ggml
from .collecting import Collecting
from .feedback import DAMPING, round_by_factor
from .ggml import Packed
from .sensitivity import Sensitivity, TypeLoss, predict_tensor
from .statistics import CrossMoments, Moments, held_out_sequences, importance_of
from .tensors import Importance, encode_tensor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..measure.loss_weights import LossWeights
    from ..measure.model import BlockModel
    from .drift import Original, Targets
    from .kept_inputs import KeptInputs
    from .rounding.factor import Factor
    from .workers import Workers


# Rows that a worker rounds at a time.
_PIECE = 384
# Columns of matrices whose H is so large that what else was freed should be given back first.
_WIDE = 4096


@dataclass(frozen=True)
class FeedbackInputs:
    """What rounding with feedback needs beside the plan.

    Attributes:
        model: in full precision; its blocks must not be kept in memory, for they are overwritten.
        tokens: the calibration windows ``(n, T)``.
        weights: of the loss on them.
        sensitivity: rounding by tensor and type, judged on held-out sequences, and H of the matrices
            outside the blocks. Block matrices that it leaves out are judged when their turn comes.
    """

    model: BlockModel
    tokens: Tensor
    weights: LossWeights
    sensitivity: Sensitivity


def rounding_parts(plan: Plan, inputs: FeedbackInputs) -> dict[str, Any]:
    """What the bytes of ``encode_streamed`` depend on beside the model."""
    losses = inputs.sensitivity.losses
    chosen = {t.name: asdict(losses[t.name][t.type]) for t in plan.tensors if t.type in losses.get(t.name, {})}
    return {
        "types": [[tensor.name, tensor.type] for tensor in plan.tensors],
        "tokens": inputs.tokens,
        "weights": [inputs.weights.tokens, inputs.weights.channels],
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
    with torch.no_grad(), Workers(threads) as workers:
        blocks = _Blocks(by_name, inputs, workers, run)
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


class _Blocks:
    """Rounds one block after the other, or takes what an interrupted run has rounded."""

    def __init__(self, plans: Mapping[str, TensorPlan], inputs: FeedbackInputs, workers: Workers, run: Run) -> None:
        self._plans = plans
        self._inputs = inputs
        self._workers = workers
        self._steps = Steps(run, range(inputs.model.n_blocks))
        self._hidden: Tensor | None = None
        self._original: Original | None = None

    def round(self, index: int) -> dict[str, Packed]:
        """The matrices of block ``index`` by GGUF name; blocks are asked for in order."""
        if self._steps.is_done(index):
            kept = self._steps.result(index)
            if kept is not None:
                return kept.arrays
            self._steps.forget()
            self._hidden = self._original = None
        packed: dict[str, Packed] = {}
        # One block, unless what was kept of earlier ones is damaged: then all of them are rounded once more.
        for step in [step for step in self._steps.remaining if step <= index]:
            hidden, original = self._enter()
            packed = _round_block(step, self._plans, hidden, original, self._inputs, self._workers)
            self._steps.finish(step, Entry(packed), {"hidden": hidden.numpy(), "original": original.hidden.numpy()})
        return packed

    def _enter(self) -> tuple[Tensor, Original]:
        """What enters the next block, behind rounded blocks and in the original."""
        if self._hidden is None or self._original is None:
            import torch

            from .drift import Original

            state = self._steps.state
            if state is None:
                self._hidden = self._inputs.model.embed(self._inputs.tokens).clone()
                self._original = Original(self._hidden.clone())
                self._inputs.model.release_outer()
            else:
                self._hidden = torch.from_numpy(state.arrays["hidden"]).clone()
                self._original = Original(torch.from_numpy(state.arrays["original"]).clone())
        return self._hidden, self._original


def _round_outer(
    source: Source, tensor: TensorPlan, moments: Array, choice: TypeLoss, threads: int | None, cache: Cache
) -> Packed:
    """A matrix outside the blocks. It depends on no other, so another budget that gives it this type takes it over."""

    def make() -> Entry:
        matrix = source.read(tensor.name)
        prepared = _Prepared.of(matrix, moments.copy(), tensor.type, choice)
        return Entry({"packed": prepared.round(threads=threads, keep_values=False)[0]})

    parts = {"tensor": tensor.name, "type": tensor.type, "choice": asdict(choice), "moments": moments}
    return cache.entry("outer-rounding", parts, make).arrays["packed"]


def _round_block(
    index: int,
    plans: Mapping[str, TensorPlan],
    hidden: Tensor,
    original: Original,
    inputs: FeedbackInputs,
    workers: Workers,
) -> dict[str, Packed]:
    """Round the matrices of a block; ``hidden`` becomes its output with the rounded weights."""
    from ..measure.precision import quick_products
    from .kept_inputs import KeptInputs

    model, losses = inputs.model, inputs.sensitivity.losses
    give_back_memory()
    kept = KeptInputs(len(inputs.tokens))
    with model.block(index) as module:
        linears = model.linears(module, index)
        with quick_products():
            groups = _groups(module, index, hidden, inputs)
            with kept.finding_ends(module, linears):
                targets = original.advance(model, module, index)

        def prepare(name: str) -> _Prepared:
            return _prepare(name, plans[name].type, linears[name], moments.pop(name), crosses.pop(name, None), inputs)

        def work(piece: tuple[str, slice]) -> tuple[Packed, Array]:
            name, rows = piece
            return prepared[name].round(rows)

        packed: dict[str, Packed] = {}
        for group in groups:
            judged = {name for name in group if plans[name].type in losses.get(name, {})}
            with quick_products():
                moments, crosses = _measure(module, index, hidden, inputs, group, judged, targets, kept, workers)
            if any(len(found.learned) >= _WIDE for found in moments.values()):
                give_back_memory()
            names = sorted(group, key=lambda name: -linears[name].in_features)
            # A matrix by itself gets all threads of the libraries instead.
            ready = workers.map(prepare, names) if len(names) > 1 else [prepare(names[0])]
            prepared = dict(zip(names, ready, strict=True))
            pieces = [(name, rows) for name in names for rows in prepared[name].pieces()]
            rounded: dict[str, list[tuple[Packed, Array]]] = {name: [] for name in names}
            for (name, _), done in zip(pieces, workers.map(work, pieces), strict=True):
                rounded[name].append(done)
            prepared.clear()  # factors are as large as H
            for name, parts in rounded.items():
                packed[name] = np.concatenate([part for part, _ in parts])
                values = np.concatenate([part for _, part in parts])
                linears[name].weight.copy_(model.parameter(name, values))
        with quick_products():
            model.advance(module, index, hidden, kept.used)
    return packed


def _prepare(
    name: str, kind: str, linear: nn.Linear, found: Moments, cross: CrossMoments | None, inputs: FeedbackInputs
) -> _Prepared:
    """A matrix that is to be rounded to the type ``kind``, what it should make up for included."""
    from .drift import correction
    from .rounding.factor import factorise

    # Rows in llama.cpp's order, which may differ from the module's; they are rounded one by one.
    matrix = inputs.model.source.read(name)
    # The module's rows, whose order is that of the channels.
    channels = inputs.weights.channels[name].numpy()
    choice = inputs.sensitivity.losses.get(name, {}).get(kind)
    if cross is not None:
        cross.subtract(linear.weight.numpy(), found)
    if cross is not None or choice is None:
        factor = factorise(found.learned, DAMPING, in_place=True)
        if choice is None:
            length = inputs.tokens.shape[1]
            judged_tokens = len(held_out_sequences(len(inputs.tokens))) * length
            choice = predict_tensor(linear.weight.numpy(), found, channels, judged_tokens, (kind,), factor)[kind]
        if cross is not None:
            # No family turns rows or columns of what writes to the residual stream.
            matrix = matrix + correction(factor, found, cross, channels)
        factor.undamp()
        del factor  # as large as H
    return _Prepared.of(matrix, found.merge(), kind, choice)


def _groups(module: nn.Module, index: int, hidden: Tensor, inputs: FeedbackInputs) -> list[list[str]]:
    """The linears of a block in the order in which it runs them, neighbours that read the same input together."""
    groups: list[list[str]] = []
    before: Tensor | None = None

    def tell(name: str, x: Tensor) -> None:
        nonlocal before
        if x is before:
            groups[-1].append(name)
        else:
            groups.append([name])
        before = x

    hooks = [
        linear.register_forward_pre_hook(lambda _, args, name=name: tell(name, args[0]))
        for name, linear in inputs.model.linears(module, index).items()
    ]
    try:
        inputs.model.run_block(module, index, hidden[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return groups


def _measure(
    module: nn.Module,
    index: int,
    hidden: Tensor,
    inputs: FeedbackInputs,
    group: list[str],
    judged: set[str],
    targets: Targets | None,
    kept: KeptInputs,
    workers: Workers,
) -> tuple[dict[str, Moments], dict[str, CrossMoments]]:
    """H of linears that read the same, behind all that is rounded; C of those that write to ``targets``.

    C is with what their outputs should be. H of ``judged`` ones, whose rounding is settled, is not divided, unless C
    is judged.
    """
    from ..measure.sixteen_bits import turned_once
    from .drift import Stream

    model = inputs.model
    linears = model.linears(module, index)
    writers = list(targets.streams) if targets else []
    crosses = {
        name: CrossMoments.zeros(linears[name].out_features, linears[name].in_features)
        for name in group
        if name in writers
    }
    moments = {
        name: Moments.zeros(linears[name].in_features, divided=name in crosses or name not in judged) for name in group
    }
    collecting = Collecting(moments, held_out_sequences(len(inputs.tokens)), workers, crosses)
    # What other matrices have written to the stream before.
    before = writers[: min((writers.index(name) for name in crosses), default=0)]
    with turned_once(module):
        for batch in model.batches(inputs.tokens.shape):
            stream = Stream(targets, batch, hidden[batch]) if targets and crosses else None
            ran = dict.fromkeys(before, stream.write) if stream else {}
            with kept.used(batch):
                x = model.run_until(module, index, hidden[batch], group[0], ran)
            for name in group:
                kept.keep(name, batch, x)
                wanted = stream.missing(name) if stream and name in crosses else None
                if wanted is not None and linears[name].bias is not None:
                    wanted -= linears[name].bias
                collecting.add(name, batch, x, inputs.weights.tokens[name][batch], wanted)
    return collecting.done(), crosses


@dataclass(frozen=True)
class _Prepared:
    """A matrix that can be rounded, some rows at a time: by feedback or, where that was judged worse, by importance."""

    matrix: Array
    type_name: str
    factor: Factor | None
    importance: Array | None

    @classmethod
    def of(cls, matrix: Array, moments: Array, type_name: str, choice: TypeLoss) -> _Prepared:
        """From H, whose memory is taken."""
        from .rounding.factor import factorise

        if choice.rounding == "feedback":
            return cls(matrix, type_name, factorise(moments, DAMPING, in_place=True), None)
        return cls(matrix, type_name, None, importance_of(moments.diagonal()))

    def pieces(self) -> list[slice]:
        """Rows that one worker rounds at a time, so that all have work where a group is a single matrix."""
        return [slice(start, start + _PIECE) for start in range(0, len(self.matrix), _PIECE)]

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
