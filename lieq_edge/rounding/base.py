"""The interface of rounders: the evidence that they need, and the bytes of every tensor of a plan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..allocation.plan import Plan, TensorPlan
from ..evidence.importance.records import Importances
from ..evidence.loss.request import Follow
from ..llama.encoders import Packed
from ..sources.base import Source
from ..store import Cache, Run
from .encode import check_importance

if TYPE_CHECKING:
    from ..evidence.loss.losses import TypeLoss
    from ..evidence.loss.measure import LossEvidence


@dataclass(frozen=True)
class RoundingTask:
    """Tensors to round, and the evidence.

    Attributes:
        source: model with the weights.
        plan: types of all tensors.
        importances: importances by tensor name; empty if none were measured.
        loss: loss weights, predicted losses, and Hessians or residual stream; None for rounders that need none.
        threads: number of threads, None for all cores; the bytes do not depend on it.
        run: run that stores finished blocks, to resume.
        cache: cache for results of this model.
    """

    source: Source
    plan: Plan
    importances: Importances
    loss: LossEvidence | None
    threads: int | None
    run: Run
    cache: Cache


class Rounder(ABC):
    """A way from weights to the codes of a type.

    Attributes:
        name: value of ``--rounding``, and of the key ``lieq.rounding`` in the file.
        weighs: True if it reads importances.
        follow: part of the loss evidence that it rounds by; None if it needs no loss evidence.
    """

    name: ClassVar[str]
    weighs: ClassVar[bool] = False
    follow: ClassVar[Follow | None] = None

    @property
    def reads_text(self) -> bool:
        """True if it needs evidence that is measured on a calibration text."""
        return self.weighs or self.follow is not None

    def check(self, plan: Plan, importances: Importances, *, allow_none: bool) -> None:
        """Refuse types that this rounding would ruin.

        Args:
            plan: plan to write.
            importances: measured importances.
            allow_none: True if the user asked for no calibration.

        Raises:
            InputError: a type needs importance, and the tensor has none.
        """
        check_importance(plan, importances, allow_none=allow_none)

    def predicted(self, loss: TypeLoss) -> float:
        """The predicted loss of a type with this rounding, nats a token."""
        return loss.direct_loss

    def resume_parts(self, plan: Plan, loss: LossEvidence | None) -> dict[str, Any] | None:
        """Everything that the bytes depend on beside the model; None if rounding is too quick to be resumed."""
        return None

    @abstractmethod
    def encode(self, task: RoundingTask) -> Iterator[tuple[TensorPlan, Packed]]:
        """The bytes of every tensor, in the plan's order."""
