"""Work of many steps, one after the other: the result of each, and the state that goes from one to the next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from .entry import Arrays, Entry
from .run import Run

# A state of so few bytes is stored whenever it changes; a larger one so seldom that writing it takes little of the
# time, in bytes a second: 50 MB every ten seconds.
_SMALL = 1 << 22
_RATE = 5e6


class Steps:
    """The progress of a row of numbered steps, stored in a run.

    The result of a step is stored before the state after it, and the newest state takes the place of the one before:
    at any moment the stored state has all results before it. Large states of quick steps are not all stored; steps
    after the newest stored one are then taken again.

    Attributes:
        state: state after the last step that is done; None before the first.
    """

    def __init__(self, run: Run, order: Sequence[int], prefix: str = "") -> None:
        """Load what is done.

        Args:
            run: place of results and states.
            order: numbers of the steps in the order in which they are taken.
            prefix: beginning of the names of results and states, for runs with more than one row of steps.
        """
        self._run = run
        self._prefix = prefix
        self._order = list(order)
        self._gap = False
        self._stored_at = time.monotonic()
        self.state = run.load(f"{prefix}state")
        self._done = 0 if self.state is None else int(self.state.record["done"])

    @property
    def remaining(self) -> list[int]:
        """The steps that are not done yet."""
        return self._order[self._done :]

    def is_done(self, index: int) -> bool:
        """True when the step was taken, by this process or the one before."""
        return index in self._order[: self._done]

    def result(self, index: int) -> Entry | None:
        """The result of a step; None when it is not stored, or damaged."""
        return self._run.load(f"{self._prefix}step.{index}")

    def results(self) -> Iterator[tuple[int, Entry]]:
        """The steps that are done with their results. When one is missing, nothing counts as done."""
        results = []
        for index in self._order[: self._done]:
            entry = self.result(index)
            if entry is None:
                self.forget()
                return
            results.append((index, entry))
        yield from results

    def forget(self) -> None:
        """Start over."""
        self._run.drop(f"{self._prefix}state")
        self.state, self._done = None, 0

    def finish(self, index: int, result: Entry | None, state: Arrays, record: Any = None) -> None:
        """Store the result of the next step, if it has one, and the state after it."""
        self._done += 1
        # What comes after a result that could not be stored would be useless.
        name = f"{self._prefix}step.{index}"
        self._gap = self._gap or (result is not None and not self._run.save(name, result.arrays, result.record))
        if not self._gap and self._is_due(sum(array.nbytes for array in state.values())):
            self._run.save(f"{self._prefix}state", state, {"done": self._done, "record": record})
            self._stored_at = time.monotonic()

    def _is_due(self, size: int) -> bool:
        return size <= _SMALL or time.monotonic() - self._stored_at >= size / _RATE
