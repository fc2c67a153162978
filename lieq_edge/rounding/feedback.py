"""What the two roundings with error feedback have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..allocation.plan import Plan, TensorPlan
from ..evidence.importance.records import Importances
from ..llama.encoders import Packed
from .base import Rounder, RoundingTask

if TYPE_CHECKING:
    from ..evidence.loss.measure import LossEvidence
    from ..evidence.loss.predictions import TypeLoss


class Feedback(Rounder):
    """Codes are chosen column by column, and each error is made up for in the columns that follow."""

    def check(self, plan: Plan, importances: Importances, *, allow_none: bool) -> None:
        """Nothing is refused, because H gives every matrix an importance of its own."""

    def predicted(self, loss: TypeLoss) -> float:
        return loss.loss

    def resume_parts(self, plan: Plan, loss: LossEvidence | None) -> dict[str, Any] | None:
        assert loss is not None
        losses = loss.losses
        chosen = {t.name: asdict(losses[t.name][t.type]) for t in plan.tensors if t.type in losses.get(t.name, {})}
        return {
            "rounding": self.name,
            "types": [[tensor.name, tensor.type] for tensor in plan.tensors],
            "tokens": loss.tokens,
            "weights": [list(loss.weights.tokens), list(loss.weights.tokens.values()), loss.weights.channels],
            "choices": chosen,
            "outer": loss.outer,
        }

    def encode(self, task: RoundingTask) -> Iterator[tuple[TensorPlan, Packed]]:
        # PyTorch and numba come with it.
        from .walk import encode_blocks

        return encode_blocks(task)
