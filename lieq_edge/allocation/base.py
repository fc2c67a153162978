"""The interface of allocators: the evidence that they need, and the plan that they make."""

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
        metric: name of the metric.
        needs: measurements of the blocks that it reads.
        predicts: True if it reads the predicted loss of every candidate type.
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

        Args:
            diagnostics: tensors of the model.
            budget: limit of the weights or of the file.

        Raises:
            InputError: the sentence gives the range that is in reach.
        """

    @abstractmethod
    def most(self, diagnostics: Diagnostics, budget: Budget) -> float:
        """The largest budget of which anything is used, in the unit of ``budget``.

        Args:
            diagnostics: tensors of the model.
            budget: limit of the weights or of the file.
        """

    @abstractmethod
    def plan(self, diagnostics: Diagnostics, budget: Budget, losses: Losses) -> Plan:
        """The type of every tensor.

        Args:
            diagnostics: tensors of the model, and measurements of its blocks.
            budget: limit of the weights or of the file.
            losses: predicted losses by tensor and type; empty unless ``predicts``.

        Raises:
            InputError: the budget is out of reach, or a measurement is missing.
        """
