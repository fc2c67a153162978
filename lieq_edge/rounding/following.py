"""Round each block behind the rounded ones before it.

Input groups are rounded together, in the order in which a block runs them; matrices that write to the residual stream
correct its drift (``drift``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..allocation.plan import TensorPlan
from ..blockwise.mixture import Mixture, Routed, mixture_of, routed_through
from ..blockwise.partial_runs import StoredInputs, input_of, seeing_inputs
from ..blockwise.precision import fast_products, takes_bfloat16
from ..blockwise.residual import Written
from ..blockwise.sixteen_bits import cast_once
from ..blockwise.workers import Workers
from ..evidence.loss.measure import LossEvidence, OriginalStream
from ..gguf.names import InputGroup
from ..gptq.collect import Collecting, Received
from ..gptq.experts import ExpertInputs
from ..gptq.hessian import CrossMoment, Hessian, count_held_out, held_out_sequences
from ..llama.encoders import Packed
from ..store.entry import Arrays
from ..system.memory import WIDE, give_back_memory
from .drift import Stream
from .experts import ExpertTensors, judge_experts, round_experts
from .group import round_group


class Following:
    """A step whose state is the input of the next block behind rounded ones, float32 ``(n, T, d)``."""

    def __init__(
        self, plans: Mapping[str, TensorPlan], loss: LossEvidence, original: OriginalStream, workers: Workers
    ) -> None:
        """Prepare to follow the original.

        Args:
            plans: plan of each tensor, by name.
            loss: loss weights and predicted losses.
            original: model with its residual stream.
            workers: pool that rounds matrices.
        """
        self.state: Arrays | None = None
        self._plans = plans
        self._loss = loss
        self._model = original.model
        self._stream = original.stream
        self._in_bfloat16 = takes_bfloat16(original.model.source)
        self._workers = workers

    def block(self, index: int) -> dict[str, Packed]:
        """Round the matrices of the next block; the state becomes its output with the rounded weights."""
        model, losses = self._model, self._loss.losses
        if self.state is None:
            self.state = {"hidden": model.embed(self._loss.tokens).clone().numpy()}
        model.release_outer()
        hidden = torch.from_numpy(self.state["hidden"])
        give_back_memory(model.columns)
        inputs = StoredInputs(len(self._loss.tokens))
        with fast_products(self._in_bfloat16):
            targets = self._stream.written(index)
        with model.block(index) as module:
            linears = model.linears(module, index)
            with fast_products(self._in_bfloat16), inputs.finding_ends(module, linears), seeing_inputs(linears) as seen:
                model.run_block(module, index, hidden[:1])
            readers = [names for names in self._loss.weights.readers(index) if names[0] in linears]
            sharing = _sharing(readers, seen)
            seen.clear()

            packed: dict[str, Packed] = {}
            for together in sharing:
                columns = linears[together[0][0]].in_features
                judged = all(self._plans[name].type in losses.get(name, {}) for names in together for name in names)
                with fast_products(self._in_bfloat16):
                    measured = self._measure(module, index, hidden, together, targets, inputs, judged=judged)
                # Side by side, unless H and its factor are large.
                for group in [[names] for names in together] if columns >= WIDE else [together]:
                    rounded = round_group(
                        group, self._plans, linears, measured, self._loss, model.source, self._workers
                    )
                    for name, (codes, values) in rounded.items():
                        packed[name] = codes
                        linears[name].weight.copy_(model.parameter(name, values))
            mixture = mixture_of(model, module, index)
            if mixture is not None:
                packed |= self._experts(mixture, module, index, hidden, inputs)
            with fast_products(self._in_bfloat16):
                model.advance(module, index, hidden, inputs.used)
        return packed

    def _experts(
        self, mixture: Mixture, module: nn.Module, index: int, hidden: Tensor, stored: StoredInputs
    ) -> dict[str, Packed]:
        """Round the experts of a block, in place; tokens visit those that the router now chooses."""
        model, tokens, losses = self._model, self._loss.tokens, self._loss.losses
        parts = []
        with fast_products(self._in_bfloat16), cast_once(module):
            for batch in model.batches(tokens.shape):
                with stored.used(batch):
                    parts.append(routed_through(model, module, index, hidden[batch], mixture))
        routed, held_out = Routed.join(parts), held_out_sequences(len(tokens))
        del parts
        matrices = mixture.matrices()
        entering, inside = (self._loss.weights.tokens[names] for names in mixture.groups)
        types = {name: self._plans[name].type for name in matrices}
        tensors = ExpertTensors(mixture.groups, matrices, types)
        if any(kind not in losses.get(name, {}) for name, kind in types.items()):
            channels = {name: self._loss.weights.channels[name].numpy() for name in matrices}
            divided = ExpertInputs(routed, (entering, inside), held_out)
            count = count_held_out(tokens.shape)
            losses = judge_experts(tensors, divided, channels, count, self._workers)
        whole = ExpertInputs(routed, (entering, inside), held_out, divided=False)
        return round_experts(tensors, whole, losses, self._workers, behind=True)

    def _measure(
        self,
        module: nn.Module,
        index: int,
        hidden: Tensor,
        together: Sequence[InputGroup],
        targets: Written | None,
        stored: StoredInputs,
        *,
        judged: bool,
    ) -> tuple[dict[InputGroup, Hessian], dict[InputGroup, CrossMoment]]:
        """H of matrices that receive the same tensor, behind everything rounded; C of one that is in ``targets``.

        H is divided into learned and held-out tokens unless the rounding of all these matrices is ``judged`` already
        and there is no C.
        """
        model, tokens = self._model, self._loss.tokens
        linears = model.linears(module, index)
        writers = list(targets.streams) if targets else []
        first = together[0][0]
        # A matrix that writes to the stream has an input of its own.
        writer = first if targets and first in writers else None
        collecting = Collecting(held_out_sequences(len(tokens)), divided=writer is not None or not judged)
        # Matrices that have already written to the stream.
        before = writers[: writers.index(writer)] if writer else []
        with cast_once(module):
            for batch in model.batches(tokens.shape):
                stream = Stream(targets, batch, hidden[batch]) if targets and writer else None
                ran = dict.fromkeys(before, stream.write) if stream else {}
                with stored.used(batch):
                    x = input_of(model, module, index, hidden[batch], first, ran)
                wanted = stream.missing(writer) if stream and writer else None
                if wanted is not None and linears[first].bias is not None:
                    wanted -= linears[first].bias
                for names in together:
                    for name in names:
                        stored.keep(name, batch, x)
                weights = self._loss.weights.tokens
                received = {names: Received(x, weights[names][batch], wanted) for names in together}
                collecting.add(batch, received)
        return collecting.done()


def _sharing(readers: Sequence[InputGroup], seen: Mapping[str, Tensor]) -> list[list[InputGroup]]:
    """``readers`` in their order, neighbours together if they receive the same tensor."""
    groups: list[list[InputGroup]] = []
    for names in readers:
        if groups and seen[groups[-1][0][0]] is seen[names[0]]:
            groups[-1].append(names)
        else:
            groups.append([names])
    return groups
