"""Train a student by the original's predictions: Adam on running batches, and the running mean of the parameters.

The rate depends on the number of the step and on earlier judgements only, and what is judged and written is the mean of
recent parameters, so that training may end at any step: there is no schedule whose end is known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..blockwise.precision import fast_products
from ..store.entry import Arrays
from .record import BATCH
from .student import Student
from .teacher import Predictions

EVERY = 10
"""Steps between two judgements by the held-out windows."""

RATES = {"d": 1e-3, "m": 1e-3, "scale_codes": 3e-4, "min_codes": 3e-4, "vector": 1e-3}
"""First rate of each kind of parameter, in its units, for a file as far from the original as ``CHOSEN_AT``."""

CHOSEN_AT = 0.3
"""Held-out divergence of the file for which ``RATES`` were chosen, in nats a token."""

_WARM, _SLOWER = 10, 100
_MOMENTUM, _SQUARES = 0.9, 0.95
# The weight of a step in the mean grows linearly with its number; that of the past is this at most. Early steps are the
# noisiest, so a mean that forgets them faster rises above the file before training at 3 bits and more.
_GROWTH, _MEAN = 2, 0.98
_TINY = 1e-12


@dataclass
class Training:
    """State of a training.

    Attributes:
        student: model that is trained; outside of ``step`` it has the mean parameters.
        seed: seed of the order of windows.
        steps: steps that were taken.
        slowed: how many times the rate was halved.
        since: step behind which the mean begins.
        arrays: moments, newest and mean parameters by name.
        pace: factor of the rates.
    """

    student: Student
    seed: int
    steps: int = 0
    slowed: int = 0
    since: int = 0
    arrays: dict[str, Tensor] = field(default_factory=dict)
    pace: float = 1.0

    def __post_init__(self) -> None:
        self._parameters = dict(self.student.parameters())
        if not self.arrays:
            for name, parameter in self._parameters.items():
                for kind in ("newest", "mean", "first", "second"):
                    self.arrays[f"{kind} {name}"] = torch.zeros_like(parameter)

    def suit(self, divergence: float) -> None:
        """Set the pace for a file of this divergence before training.

        The noise of steps adds a divergence that grows with the square of the rate, and that matters the more, the less
        there was before.
        """
        # Rounding can make the divergence of equal predictions negative by 1e-7 or so.
        self.pace = min(1.0, max(0.0, divergence / CHOSEN_AT) ** 0.5)

    def step(self, texts: Predictions) -> float:
        """Take one step on the next batch of ``texts``; the batch's divergence before it."""
        self._put("newest")
        with fast_products():
            loss = self.student.loss(texts.of(self._batch(len(texts))), train=True)
        self.steps += 1
        rate = self.pace * min(1.0, self.steps / _WARM) / (1 + self.steps / _SLOWER) ** 0.5 / 2**self.slowed
        corrected = 1 - _MOMENTUM**self.steps, 1 - _SQUARES**self.steps
        for name, slope in self.student.slopes():
            # A single value that is not finite would stay in the moments for ever.
            slope = slope.nan_to_num(0.0, 0.0, 0.0)
            first, second = self.arrays[f"first {name}"], self.arrays[f"second {name}"]
            first.mul_(_MOMENTUM).add_(slope, alpha=1 - _MOMENTUM)
            second.mul_(_SQUARES).addcmul_(slope, slope, value=1 - _SQUARES)
            scale = (second / corrected[1]).sqrt_().add_(_TINY)
            size = rate * RATES[name.rpartition(" ")[2]] / corrected[0]
            self.arrays[f"newest {name}"].addcdiv_(first, scale, value=-size)
        self.average()
        self._put("mean")
        return loss

    def average(self) -> None:
        """Take the newest parameters into the mean ones."""
        count = self.steps - self.since
        past = min(_MEAN, count / (count + _GROWTH))
        for name in self._parameters:
            self.arrays[f"mean {name}"].lerp_(self.arrays[f"newest {name}"], 1 - past)

    def retreat(self, values: dict[str, Tensor]) -> None:
        """Go on from these parameters at half the rate, in no direction yet."""
        self.slowed += 1
        self.since = self.steps
        for name, value in values.items():
            self.arrays[f"newest {name}"].copy_(value)
            self.arrays[f"mean {name}"].copy_(value)
            self.arrays[f"first {name}"].zero_()
        self._put("mean")

    def judge(self, texts: Predictions) -> float:
        """Mean divergence of the present parameters on ``texts``, in nats a token."""
        with fast_products():
            losses = [self.student.loss(texts.of([index]), train=False) for index in range(len(texts))]
        return float(np.mean(losses))

    def present(self) -> dict[str, Tensor]:
        """Copies of the present parameters."""
        return {name: parameter.clone() for name, parameter in self._parameters.items()}

    def put(self, values: dict[str, Tensor]) -> None:
        """Give the student parameters by name."""
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
        self.student.changed()

    def state(self) -> Arrays:
        """The arrays that later steps depend on."""
        return {name: array.numpy() for name, array in self.arrays.items()}

    def counts(self) -> dict[str, int]:
        """The numbers that belong to ``state``."""
        return {"steps": self.steps, "slowed": self.slowed, "since": self.since}

    @staticmethod
    def restored(student: Student, seed: int, counts: dict[str, int], arrays: dict[str, Any]) -> Training:
        """A training as it was when ``state`` and ``counts`` were stored."""
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        training = Training(student, seed, **counts, arrays=tensors)
        training._put("mean")
        return training

    def _put(self, kind: str) -> None:
        self.put({name: self.arrays[f"{kind} {name}"] for name in self._parameters})

    def _batch(self, count: int) -> list[int]:
        """Indices of the next windows: all come in a new order before any comes again."""
        wanted = range(self.steps * BATCH, (self.steps + 1) * BATCH)
        orders = {
            turn: np.random.default_rng([self.seed, turn]).permutation(count) for turn in {i // count for i in wanted}
        }
        return [int(orders[index // count][index % count]) for index in wanted]
