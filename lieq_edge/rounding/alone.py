"""Round each block by stored Hessians of the original; no model is run, and blocks are independent."""

from __future__ import annotations

from collections.abc import Mapping

from ..allocation.plan import TensorPlan
from ..blockwise.workers import Workers
from ..evidence.loss.hessians import BlockHessians
from ..evidence.loss.predictions import Losses
from ..gguf.names import InputGroup
from ..llama.encoders import Packed
from ..sources.base import Source
from ..store.entry import Arrays
from ..system.memory import WIDE, give_back_memory
from .group import Prepared, prepare_matrices, round_prepared


class Alone:
    """A step without a state between blocks."""

    def __init__(
        self,
        source: Source,
        plans: Mapping[str, TensorPlan],
        hessians: BlockHessians,
        losses: Losses,
        workers: Workers,
    ) -> None:
        """Prepare to round by stored Hessians.

        Args:
            source: model with the weights.
            plans: plan of each tensor, by name.
            hessians: H of all blocks.
            losses: predicted losses, which decide for each type whether feedback is used.
            workers: pool that rounds matrices.
        """
        self.state: Arrays | None = {}
        self._source = source
        self._plans = plans
        self._hessians = hessians
        self._losses = losses
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
        return packed
