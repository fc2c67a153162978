"""The state of a sweep, for whoever watches it: files that are ready, what runs where, and the time left."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..system.progress import Event
from .table import SweepRow


@dataclass(frozen=True)
class Running:
    """Work on a worker.

    Attributes:
        label: model and method.
        host: name of the machine.
        stage: title of the present stage; empty before the first.
        done: steps of it that are done.
        total: steps of it.
    """

    label: str
    host: str
    stage: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class SweepEvent(Event):
    """What a sweep reports: an ``Event`` whose ``step`` and ``steps`` count files.

    Attributes:
        running: what runs now.
        row: row of the file that has become ready; None for other events.
    """

    running: tuple[Running, ...] = ()
    row: SweepRow | None = None


@dataclass
class _Work:
    """A task: the files that it has still to make, and its own estimate of the time."""

    files: int
    running: Running | None = None
    start: float = 0.0
    left: float | None = None
    heard: float = 0.0


class State:
    """Counts files and estimates the time left."""

    def __init__(self, files: int, workers: int) -> None:
        """Begin.

        Args:
            files: number of all files.
            workers: number of workers.
        """
        self.files = files
        self.workers = workers
        self.ready = 0
        self._works: dict[str, _Work] = {}
        self._seconds: list[float] = []

    def wait(self, task: str, files: int) -> None:
        """A task is to make so many files."""
        self._works[task] = _Work(files)

    def begin(self, task: str, label: str, host: str) -> bool:
        """A task begins; True if it was at work before, on a worker that has died."""
        work = self._works[task]
        again = work.running is not None
        work.running, work.start, work.left = Running(label, host), time.monotonic(), None
        return again

    def step(self, task: str, stage: str, done: int, total: int, left: float | None) -> None:
        """A task has come so far; ``left`` is its own estimate in seconds."""
        work = self._works[task]
        if work.running is not None:
            work.running = Running(work.running.label, work.running.host, stage, done, total)
        work.left, work.heard = left, time.monotonic()

    def add(self, task: str, row: SweepRow) -> None:
        """A row of a task is there."""
        self.ready += 1
        self._works[task].files -= 1
        if row.seconds is not None:
            self._seconds.append(row.seconds)

    def end(self, task: str) -> None:
        """A task has ended."""
        del self._works[task]

    @property
    def running(self) -> tuple[Running, ...]:
        """What runs now."""
        return tuple(work.running for work in self._works.values() if work.running is not None)

    def left(self) -> float | None:
        """Estimate of the seconds until all is done; None before anything is known."""
        now = time.monotonic()
        present = {}
        for task, work in self._works.items():
            if work.left is not None and work.files:
                present[task] = max(0.0, work.left - (now - work.heard))
        if self._seconds:
            each = sum(self._seconds) / len(self._seconds)
        elif present:
            known = [(now - self._works[task].start + left, self._works[task].files) for task, left in present.items()]
            each = sum(seconds for seconds, _ in known) / max(1, sum(files for _, files in known))
        else:
            return None
        waiting = each * sum(work.files for task, work in self._works.items() if task not in present)
        return max([(waiting + sum(present.values())) / self.workers, *present.values()])

    def event(self, *, task: str | None = None, message: str = "", row: SweepRow | None = None) -> SweepEvent:
        """The present state."""
        running = self._works[task].running if task in self._works else None
        return SweepEvent(
            stage="" if running is None else f"{running.label} on {running.host}: {running.stage}",
            done=0 if running is None else running.done,
            total=0 if running is None else running.total,
            message=message,
            step=self.ready,
            steps=self.files,
            seconds_left=self.left(),
            running=self.running,
            row=row,
        )
