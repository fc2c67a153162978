"""Round block after block with error feedback, each measured through all that is already rounded.

Linears that read the same input share its H and are rounded together, in the order in which a block runs them; those
that write to the residual stream make up for its drift (``drift``). Where H of the original was kept, that does instead
(``once``).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..allocate.plan import Plan, TensorPlan
from ..evidence.loss.hessians import KeptMoments
from ..evidence.loss.predictions import Losses, Sensitivity, TypeLoss
from ..gptq.collect import Collecting, Received
from ..gptq.hessian import CrossMoment, Hessian, held_out_sequences
from ..llama.encoders import Packed
from ..sources.base import Array, Source
from ..store import NO_CACHE, Cache, Entry, Run, Steps
from ..store.entry import Arrays
from ..system.memory import WIDE, give_back_memory
from .group import prepare_matrices, round_group
from .importance import Importance, encode_tensor
from .independent import round_block

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..blockwise.model import BlockModel
    from ..blockwise.partial_runs import StoredInputs
    from ..blockwise.residual import ResidualStream, Written
    from ..blockwise.workers import Workers
    from ..evidence.loss.weights import LossWeights
    from ..gguf.names import InputGroup


@dataclass(frozen=True)
class FeedbackInputs:
    """What rounding with feedback needs beside the plan.

    Attributes:
        model: in full precision; its blocks must not be kept in memory, for they are overwritten. None where
            ``moments`` are all that is needed.
        tokens: the calibration windows ``(n, T)``.
        weights: of the loss on them.
        sensitivity: rounding by tensor and type, judged on held-out sequences, and H of the matrices
            outside the blocks. Block matrices that it leaves out are judged when their turn comes.
        original: the residual stream of the model on the tokens, inside blocks too; None when nobody kept it.
        moments: H of all blocks, of what they receive in the original: rounding then follows nothing else.
    """

    model: BlockModel | None
    tokens: Tensor
    weights: LossWeights
    sensitivity: Sensitivity
    original: ResidualStream | None = None
    moments: KeptMoments | None = None


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
        "once": inputs.moments is not None,
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

    from ..blockwise.workers import Workers

    run = run or Run(None)
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    with torch.no_grad(), Workers(threads) as workers, contextlib.ExitStack() as stack:
        step: _Step
        if inputs.moments is not None:
            step = _Once(source, by_name, inputs.moments, inputs.sensitivity.losses, workers)
        else:
            step = _Following(by_name, inputs, stack.enter_context(_original(inputs)), workers)
        blocks = _Blocks(step, source.n_blocks, run)
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
    from ..blockwise.precision import fast_products
    from ..blockwise.residual import ResidualStream

    if inputs.original is not None:
        yield inputs.original
        return
    assert inputs.model is not None
    with tempfile.TemporaryDirectory(prefix="lieq-stream.") as folder, Run(Path(folder)) as run:
        original = ResidualStream(inputs.model, inputs.tokens, run, inside=True)
        with fast_products():
            original.forward()
        yield original


class _Step(Protocol):
    """Rounds blocks in their order.

    Attributes:
        state: what the next block needs of those before; None before the first.
    """

    state: Arrays | None

    def block(self, index: int) -> dict[str, Packed]:
        """Round the next block; its matrices by GGUF name."""


class _Once:
    """Each block by itself."""

    def __init__(
        self,
        source: Source,
        plans: Mapping[str, TensorPlan],
        moments: KeptMoments,
        losses: Losses,
        workers: Workers,
    ) -> None:
        self.state: Arrays | None = {}
        self._given = source, plans, moments, losses, workers

    def block(self, index: int) -> dict[str, Packed]:
        source, plans, moments, losses, workers = self._given
        return round_block(source, index, plans, moments, losses, workers)


class _Following:
    """Each block behind those that are rounded; the state is what enters the next one."""

    def __init__(
        self, plans: Mapping[str, TensorPlan], inputs: FeedbackInputs, original: ResidualStream, workers: Workers
    ) -> None:
        self.state: Arrays | None = None
        self._plans = plans
        self._inputs = inputs
        self._original = original
        self._workers = workers

    def block(self, index: int) -> dict[str, Packed]:
        import torch

        assert self._inputs.model is not None
        if self.state is None:
            self.state = {"hidden": self._inputs.model.embed(self._inputs.tokens).clone().numpy()}
        self._inputs.model.release_outer()
        hidden = torch.from_numpy(self.state["hidden"])
        return _round_block(index, self._plans, hidden, self._original, self._inputs, self._workers)


class _Blocks:
    """Rounds one block after the other, or takes what an interrupted run has rounded."""

    def __init__(self, step: _Step, count: int, run: Run) -> None:
        self._step = step
        self._steps = Steps(run, range(count))
        if self._steps.state is not None:
            import torch

            # In memory of its own and of PyTorch's, for it is changed in place, and sums may depend on where it lies.
            arrays = self._steps.state.arrays
            self._step.state = {name: torch.from_numpy(array).clone().numpy() for name, array in arrays.items()}

    def round(self, index: int) -> dict[str, Packed]:
        """The matrices of block ``index`` by GGUF name; blocks are asked for in order."""
        if self._steps.is_done(index):
            kept = self._steps.result(index)
            if kept is not None:
                return kept.arrays
            self._steps.forget()
            self._step.state = None
        packed: dict[str, Packed] = {}
        # One block, unless what was kept of earlier ones is damaged: then all of them are rounded once more.
        for step in [step for step in self._steps.remaining if step <= index]:
            packed = self._step.block(step)
            self._steps.finish(step, Entry(packed), self._step.state or {})
        return packed


def _round_outer(
    source: Source, tensor: TensorPlan, moments: Array, choice: TypeLoss, threads: int | None, cache: Cache
) -> Packed:
    """A matrix outside the blocks. It depends on no other, so another budget that gives it this type takes it over."""

    def make() -> Entry:
        name = tensor.name
        matrices = {name: source.read(name)}
        prepared = prepare_matrices(matrices, {name: tensor.type}, {name: choice}, moments.copy())[name]
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
    from ..blockwise.partial_runs import StoredInputs, seeing_inputs
    from ..blockwise.precision import fast_products

    model, losses = inputs.model, inputs.sensitivity.losses
    assert model is not None
    give_back_memory(model.columns)
    kept = StoredInputs(len(inputs.tokens))
    with fast_products():
        targets = original.written(index)
    with model.block(index) as module:
        linears = model.linears(module, index)
        with fast_products(), kept.finding_ends(module, linears), seeing_inputs(linears) as seen:
            model.run_block(module, index, hidden[:1])
        sharing = _sharing(inputs.weights.readers(index), seen)
        seen.clear()

        packed: dict[str, Packed] = {}
        for together in sharing:
            columns = linears[together[0][0]].in_features
            settled = all(plans[name].type in losses.get(name, {}) for readers in together for name in readers)
            with fast_products():
                measured = _measure(module, index, hidden, inputs, together, targets, kept, judged=settled)
            # Side by side, unless H and its factor are large.
            for group in [[readers] for readers in together] if columns >= WIDE else [together]:
                for name, (own, values) in round_group(group, plans, linears, measured, inputs, workers).items():
                    packed[name] = own
                    linears[name].weight.copy_(model.parameter(name, values))
        with fast_products():
            model.advance(module, index, hidden, kept.used)
    return packed


def _sharing(readers: Sequence[InputGroup], seen: Mapping[str, Tensor]) -> list[list[InputGroup]]:
    """``readers`` in their order, those together that follow each other and receive the same tensor."""
    found: list[list[InputGroup]] = []
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
    together: Sequence[InputGroup],
    targets: Written | None,
    kept: StoredInputs,
    *,
    judged: bool,
) -> tuple[dict[InputGroup, Hessian], dict[InputGroup, CrossMoment]]:
    """H of linears that read the same, behind all that is rounded; C of one in ``targets`` with what it should give.

    H is not divided when all these linears' rounding is settled, ``judged``, unless C is judged.
    """
    from ..blockwise.partial_runs import input_of
    from ..blockwise.sixteen_bits import cast_once
    from .drift import Stream

    model = inputs.model
    assert model is not None
    linears = model.linears(module, index)
    writers = list(targets.streams) if targets else []
    first = together[0][0]
    # What writes to the stream reads an input of its own.
    writer = first if targets and first in writers else None
    collecting = Collecting(held_out_sequences(len(inputs.tokens)), divided=writer is not None or not judged)
    # What other matrices have written to the stream before.
    before = writers[: writers.index(writer)] if writer else []
    with cast_once(module):
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
