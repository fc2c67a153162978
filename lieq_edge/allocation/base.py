"""What is asked of an allocator: which evidence it needs, and the plan that it makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from ..evidence.blocks.records import Diagnostics
from .budget import Budget
from .loss import Losses
from .plan import Plan

Candidates = Mapping[str, tuple[str, ...]]
"""Types that a matrix may get, by GGUF name."""


class Allocator(ABC):
    """Shares a budget out between tensors. Pure: numbers in, types out.

    Attributes:
        metric: name of what decides.
        needs: measurements of the blocks that it reads.
        predicts: it reads the predicted loss of every candidate type.
    """

    metric: str
    needs: frozenset[str] = frozenset()
    predicts: bool = False

    @abstractmethod
    def candidates(self, diagnostics: Diagnostics) -> Candidates:
        """Types that each matrix may get under some budget.

        Raises:
            InputError: a type is unknown, or none fits a matrix.
        """

    @abstractmethod
    def check(self, diagnostics: Diagnostics, budget: Budget) -> None:
        """Refuse a budget out of reach, before anything is measured.

        Raises:
            InputError: with the range that is in reach.
        """

    @abstractmethod
    def plan(self, diagnostics: Diagnostics, budget: Budget, losses: Losses) -> Plan:
        """The type of every tensor.

        Args:
            diagnostics: tensors of the model, and measurements of its blocks.
            budget: what the weights may take.
            losses: predicted losses where ``predicts``, else nothing.

        Raises:
            InputError: the budget is out of reach, or a measurement is missing.
        """
