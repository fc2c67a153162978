"""Request and result of a tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..texts.info import Windows

BATCH = 4
"""Windows of a step."""


@dataclass(frozen=True)
class TuningRequest:
    """Texts and limits of a tuning.

    Attributes:
        learned: windows to train on, ``(n, T)``.
        held_out: windows of the same text, which choose the best state.
        other: windows of a text of another kind, on which the file must not get worse.
        minutes: time for training; None for no limit.
        steps: largest number of steps; None for no limit.
        seed: seed of the order of windows.
    """

    learned: Windows
    held_out: Windows
    other: Windows
    minutes: float | None
    steps: int | None
    seed: int

    @property
    def parts(self) -> dict[str, Any]:
        """What the course of training depends on, beside the file."""
        return {"learned": self.learned, "held_out": self.held_out, "other": self.other, "seed": self.seed}


@dataclass(frozen=True)
class Tuned:
    """Result of a tuning.

    Attributes:
        steps: steps that were taken in all.
        best_step: step whose parameters were taken; 0 if none was better.
        seconds: seconds of training, in all.
        held_out: divergence on held-out windows before and after, nats a token.
        other: the same on the other text.
        curve: seconds, step and held-out divergence of each judgement.
    """

    steps: int
    best_step: int
    seconds: float
    held_out: tuple[float, float]
    other: tuple[float, float]
    curve: tuple[tuple[float, int, float], ...] = ()

    @property
    def accepted(self) -> bool:
        """The tuned values are better on the held-out windows, and not worse on the other text."""
        return self.best_step > 0 and self.other[1] <= self.other[0]

    @property
    def sentence(self) -> str:
        """The result for the user."""
        if not self.accepted:
            return f"Tuning was without use: {self.reason}."
        gain = 1 - self.held_out[1] / self.held_out[0]
        return (
            f"Tuning took {self.steps} steps in {self.seconds / 60:.0f} min: the divergence on held-out text fell by "
            f"{gain:.0%}, on another kind of text by {1 - self.other[1] / self.other[0]:.0%} (step {self.best_step})."
        )

    @property
    def reason(self) -> str:
        """Why tuned values were refused."""
        if self.best_step == 0:
            return "tuning made it no better on held-out text"
        return (
            f"tuning made it worse on a text of another kind ({self.other[0]:.4f} to {self.other[1]:.4f} nats a token)"
        )
