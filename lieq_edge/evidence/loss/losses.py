"""Predicted losses as values: free of whatever predicts them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TypeLoss:
    """Predicted loss of one type for one tensor.

    Attributes:
        loss: predicted loss, nats a token, with or without error feedback, whichever is less.
        direct_loss: predicted loss without error feedback.
        feeds_back: True if error feedback has the smaller held-out error.
    """

    loss: float
    direct_loss: float
    feeds_back: bool


Losses = dict[str, dict[str, TypeLoss]]
"""Predictions by GGUF tensor name and type name."""


def losses_to_json(losses: Losses) -> dict[str, Any]:
    """Predictions as JSON values."""
    return {name: {kind: asdict(loss) for kind, loss in by_type.items()} for name, by_type in losses.items()}


def losses_from_json(values: dict[str, Any]) -> Losses:
    """Predictions from ``losses_to_json``."""
    return {name: {kind: TypeLoss(**loss) for kind, loss in by_type.items()} for name, by_type in values.items()}
