"""What the efforts stand for: rounding, length of the calibration text, rows for predictions, estimates, and tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..evidence.loss.request import FEW_ROWS, ROWS
from ..settings import Effort
from .machine import ROUNDS


@dataclass(frozen=True)
class Work:
    """Work of an effort, where no flag says otherwise.

    Attributes:
        rounding: name of the rounding.
        text: length of the calibration text, where the loss is followed, over the normal one.
        rows: rows of a block's matrix that are rounded to predict its losses.
        rounds: measurements of this machine for the estimates.
        tuning: minutes of tuning; None for none.
    """

    rounding: str
    text: float
    rows: int = ROWS
    rounds: int = ROUNDS
    tuning: float | None = None


WORK: Mapping[Effort, Work] = {
    "quick": Work("feedback-once", 0.25, FEW_ROWS, rounds=1),
    "normal": Work("feedback-once", 1.0),
    "best": Work("feedback", 2.0, tuning=30.0),
}
