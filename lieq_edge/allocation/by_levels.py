"""By levels, as in LieQ: a metric ranks the blocks, and whole blocks get a level of nominal bits."""

from __future__ import annotations

from dataclasses import replace

from ..evidence.blocks.records import Diagnostics
from ..evidence.blocks.table import METRICS
from ..gguf.types import LEVEL_TYPES, is_matrix
from .base import Allocator, Candidates
from .budget import Budget
from .loss import Losses
from .plan import Plan, PlanOptions, is_block_weight, make_plan, plan_fixed, plan_tensor


class ByLevels(Allocator):
    """Blocks by falling score; a block with a higher score never gets fewer bits."""

    def __init__(self, options: PlanOptions) -> None:
        """Prepare to allocate by the metric and the levels of ``options``."""
        self.metric = options.metric
        self.needs = METRICS[options.metric].needs
        self._options = options

    def candidates(self, diagnostics: Diagnostics) -> Candidates:
        types: dict[str, tuple[str, ...]] = {}
        for tensor in diagnostics.tensors:
            if is_block_weight(tensor):
                levels = [LEVEL_TYPES[level] for level in self._options.levels]
                fitting = (plan_tensor(tensor, name, self._options).type for name in levels)
                types[tensor.name] = tuple(dict.fromkeys(fitting))
            elif is_matrix(tensor.name, tensor.shape):
                types[tensor.name] = (plan_fixed(tensor, diagnostics, self._options).type,)
        return types

    def check(self, diagnostics: Diagnostics, budget: Budget) -> None:
        # Which budgets, levels and types are possible does not depend on the scores.
        make_plan(diagnostics, budget, replace(self._options, metric="first"))

    def most(self, diagnostics: Diagnostics, budget: Budget) -> float:
        top = replace(self._options, metric="first", levels=self._options.levels[-1:])
        plan = make_plan(diagnostics, Budget("nominal", float(top.levels[0]), ""), top)
        return {"nominal": plan.nominal_bits, "bpw": plan.bpw, "bytes": float(plan.file_bytes)}[budget.kind]

    def plan(self, diagnostics: Diagnostics, budget: Budget, losses: Losses) -> Plan:
        return make_plan(diagnostics, budget, self._options)
