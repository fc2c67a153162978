"""The steps of a long piece of work: which one is at work, and how long all of them will still take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

# Finished steps say by how much the estimates of the others are wrong, within these bounds.
_LEAST_RATIO, _MOST_RATIO = 0.4, 4.0


@dataclass(frozen=True)
class Step:
    """A step of the work.

    Attributes:
        name: name by which the work begins it.
        title: title for the user, in the imperative.
        seconds: estimate of its time.
    """

    name: str
    title: str
    seconds: float


class Schedule:
    """Steps in the order in which they are done.

    Attributes:
        steps: all steps.
        number: number of the present step, from 1; 0 before the first.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self.number = 0
        self._finished = 0
        self._expected = 0.0
        self._taken = 0.0
        self._start = 0.0

    @property
    def count(self) -> int:
        """Number of all steps."""
        return len(self.steps)

    @property
    def finished(self) -> tuple[Step, ...]:
        """Steps that are done, or that had nothing to do."""
        return self.steps[: self._finished]

    @property
    def present(self) -> Step | None:
        """The step that is at work."""
        return self.steps[self.number - 1] if self.number > self._finished else None

    @property
    def seconds(self) -> float:
        """Estimate of all steps together."""
        return sum(step.seconds for step in self.steps)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step | None]:
        """Do the next step of that name in the block; without one, what the block does counts for the present step."""
        later = range(self._finished, self.count)
        index = next((i for i in later if self.steps[i].name == name), None)
        if index is None or self.present is not None:
            yield None
            return
        self.number, self._finished = index + 1, index
        self._start = time.monotonic()
        yield self.steps[index]
        self._taken += time.monotonic() - self._start
        self._expected += self.steps[index].seconds
        self._finished = index + 1

    def left(self) -> float:
        """Estimate of the seconds until the end, from the steps so far."""
        ratio = 1.0
        if self._expected > 0:
            # Short steps say little.
            weight = min(1.0, self._expected / max(0.2 * self.seconds, 1e-9))
            ratio += weight * (self._taken / self._expected - 1)
        ratio = min(max(ratio, _LEAST_RATIO), _MOST_RATIO)
        rest = sum(step.seconds for step in self.steps[max(self.number, self._finished) :])
        if self.present is not None:
            rest += max(0.0, self.present.seconds - (time.monotonic() - self._start) / ratio)
        return ratio * rest


_latest: Schedule | None = None
_present: ContextVar[Schedule | None] = ContextVar("schedule", default=None)


def present_schedule() -> Schedule | None:
    """The schedule of the work in progress, if it has one."""
    return _present.get()


def latest_schedule() -> Schedule | None:
    """The schedule that was followed last in this process, by any thread."""
    return _latest


@contextlib.contextmanager
def following(schedule: Schedule) -> Iterator[None]:
    """Let progress follow ``schedule`` in the block."""
    global _latest
    _latest = schedule
    token = _present.set(schedule)
    try:
        yield
    finally:
        _present.reset(token)


def spoken(seconds: float) -> str:
    """A duration for people: ``8 s``, ``2 min 30 s``, ``1 h 20 min``."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    if seconds < 595:
        minutes, rest = divmod(10 * round(seconds / 10), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
