"""The common part of the two roundings with error feedback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..allocation.plan import Plan, TensorPlan
from ..evidence.importance.records import Importances
from ..llama.encoders import Packed
from .base import Rounder, RoundingTask

if TYPE_CHECKING:
    from ..evidence.loss.losses import TypeLoss
    from ..evidence.loss.measure import LossEvidence


class Feedback(Rounder):
    """Codes are chosen column by column, and later columns make up for each error."""

    def check(self, plan: Plan, importances: Importances, *, allow_none: bool) -> None:
        """Accept every plan, because H gives each matrix an importance of its own."""

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
        # This imports PyTorch and numba.
        from .walk import encode_blocks

        return encode_blocks(task)
