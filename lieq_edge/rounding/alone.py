"""Round each block by stored Hessians of the original; no model is run, and blocks are independent."""

from __future__ import annotations

from collections.abc import Mapping

from ..allocation.plan import TensorPlan
from ..blockwise.mixture import Routed
from ..blockwise.workers import Workers
from ..evidence.loss.hessians import BlockHessians
from ..evidence.loss.measure import LossEvidence
from ..gguf.names import InputGroup
from ..gptq.experts import ExpertInputs
from ..gptq.hessian import held_out_sequences
from ..llama.encoders import Packed
from ..sources.base import Source
from ..store.entry import Arrays
from ..system.memory import WIDE, give_back_memory
from .experts import ExpertTensors, round_experts
from .group import Prepared, prepare_matrices, round_prepared


class Alone:
    """A step without a state between blocks."""

    def __init__(
        self,
        source: Source,
        plans: Mapping[str, TensorPlan],
        hessians: BlockHessians,
        loss: LossEvidence,
        workers: Workers,
    ) -> None:
        """Prepare to round by stored Hessians.

        Args:
            source: model with the weights.
            plans: plan of each tensor, by name.
            hessians: H of all blocks.
            loss: predicted losses, which say how each type is rounded, and loss weights of experts.
            workers: where matrices are rounded.
        """
        self.state: Arrays | None = {}
        self._source = source
        self._plans = plans
        self._hessians = hessians
        self._loss = loss
        self._losses = loss.losses
        self._workers = workers

    def block(self, index: int) -> dict[str, Packed]:
        """Round the matrices of block ``index`` that have an H, by GGUF name.

        Raises:
            InputError: H is no longer in the cache.
        """
        hessians = self._hessians.get(index)

        def prepare(names: InputGroup) -> dict[str, Prepared]:
            types = {name: self._plans[name].type for name in names}
            choices = {name: self._losses[name][kind] for name, kind in types.items()}
            matrices = {name: self._source.read(name) for name in names}
            return prepare_matrices(matrices, types, choices, hessians.pop(names).matrix())

        # Side by side, unless H and its factor are large.
        columns = {names: len(correlations.diagonal) for names, correlations in hessians.items()}
        narrow = [names for names in hessians if columns[names] < WIDE]
        packed: dict[str, Packed] = {}
        for group in [narrow, *([names] for names in hessians if columns[names] >= WIDE)]:
            if not group:
                continue
            widest = max(columns[names] for names in group)
            if widest >= WIDE:
                give_back_memory()
            with self._workers.for_columns(widest):
                prepared = {name: one for part in self._workers.map(prepare, group) for name, one in part.items()}
            rounded = round_prepared(prepared, self._workers, keep_values=False)
            packed |= {name: codes for name, (codes, _) in rounded.items()}
        routed = self._hessians.routed(index)
        if routed is not None:
            packed |= self._experts(index, routed)
        return packed

    def _experts(self, index: int, routed: Routed) -> dict[str, Packed]:
        """Round the experts of a block by what the original routes to them."""
        weights = self._loss.weights
        entering, inside = (names for names in weights.readers(index) if weights.channels[names[0]].ndim == 2)
        matrices = {name: self._source.read(name) for name in (*entering, *inside)}
        types = {name: self._plans[name].type for name in matrices}
        held_out = held_out_sequences(len(self._loss.tokens))
        pair = weights.tokens[entering], weights.tokens[inside]
        inputs = ExpertInputs(routed, pair, held_out, divided=False)
        tensors = ExpertTensors((entering, inside), matrices, types)
        return round_experts(tensors, inputs, self._losses, self._workers, behind=False)
