"""By predicted loss: tensors, or blocks, get the types with the least sum of predicted losses."""

from __future__ import annotations

from ..evidence.blocks.records import Diagnostics
from .base import Allocator, Candidates
from .budget import Budget
from .loss import Losses, largest_budget, make_loss_plan
from .plan import Plan, PlanOptions
from .time_limit import TimeLimit
from .types import candidate_types

NAME = "loss"
"""Value of ``--metric``."""


class ByLoss(Allocator):
    """A knapsack over tensors, or over blocks."""

    metric = NAME
    predicts = True

    def __init__(
        self,
        options: PlanOptions,
        types: str,
        refused: frozenset[str] = frozenset(),
        time: TimeLimit | None = None,
    ) -> None:
        """Prepare to choose among types.

        Args:
            options: granularity, and types of embedding and head.
            types: candidates: ``k``, ``all``, or names with commas between them.
            refused: types that the rounding would ruin.
            time: bound on the time of a token; None for any time.
        """
        self._options = options
        self._types = types
        self._refused = refused
        self._time = time

    def candidates(self, diagnostics: Diagnostics) -> Candidates:
        types = candidate_types(diagnostics.tensors, self._types)
        return {name: tuple(t for t in some if t not in self._refused) or some for name, some in types.items()}

    def check(self, diagnostics: Diagnostics, budget: Budget) -> None:
        # Which budgets are possible does not depend on the losses.
        make_loss_plan(diagnostics, budget, self._no_losses(diagnostics), self._options, self._time)

    def most(self, diagnostics: Diagnostics, budget: Budget) -> float:
        return largest_budget(diagnostics, budget, self._no_losses(diagnostics), self._options)

    def _no_losses(self, diagnostics: Diagnostics) -> Losses:
        return {name: dict.fromkeys(types, 0.0) for name, types in self.candidates(diagnostics).items()}

    def plan(self, diagnostics: Diagnostics, budget: Budget, losses: Losses) -> Plan:
        return make_loss_plan(diagnostics, budget, losses, self._options, self._time)
