"""By predicted loss: each tensor, or each block, gets the type that makes the sum of predicted losses least."""

from __future__ import annotations

from ..evidence.blocks.records import Diagnostics
from .base import Allocator, Candidates
from .budget import Budget
from .loss import Losses, make_loss_plan
from .plan import Plan, PlanOptions
from .types import candidate_types

NAME = "loss"
"""What users call it."""


class ByLoss(Allocator):
    """A knapsack over tensors, or over blocks."""

    metric = NAME
    predicts = True

    def __init__(self, options: PlanOptions, types: str, refused: frozenset[str] = frozenset()) -> None:
        """Choose among ``types``.

        Args:
            options: granularity, and types of embedding and head.
            types: ``k``, ``all``, or names with commas between them.
            refused: types that the rounding does not write.
        """
        self._options = options
        self._types = types
        self._refused = refused

    def candidates(self, diagnostics: Diagnostics) -> Candidates:
        types = candidate_types(diagnostics.tensors, self._types)
        return {name: tuple(t for t in some if t not in self._refused) or some for name, some in types.items()}

    def check(self, diagnostics: Diagnostics, budget: Budget) -> None:
        # Which budgets are possible does not depend on the losses.
        nothing = {name: dict.fromkeys(types, 0.0) for name, types in self.candidates(diagnostics).items()}
        make_loss_plan(diagnostics, budget, nothing, self._options)

    def plan(self, diagnostics: Diagnostics, budget: Budget, losses: Losses) -> Plan:
        return make_loss_plan(diagnostics, budget, losses, self._options)
