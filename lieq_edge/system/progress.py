"""Progress of long work, for whoever asked for it: a terminal, a callback, or nobody, which is the default."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Protocol

import psutil

from . import interrupt
from .schedule import Schedule, Step, present_schedule, spoken
from .terminal import clean, say

Progress = Callable[["Event"], None]
"""A function that receives steps and notes."""

Advance = Callable[[], None]
"""To call after each step; raises KeyboardInterrupt when the user asked to stop and a library swallowed it."""


class Receiver(Protocol):
    """Receives the progress of the work and what it has to say."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Receive a stage of ``total`` steps; the value of the ``with`` block is called after each step."""

    def begin(self, schedule: Schedule, step: Step) -> None:
        """Receive the beginning of a step of the whole work."""

    def note(self, message: str) -> None:
        """Receive one line for the user."""


@dataclass(frozen=True)
class Event:
    """What a callback receives.

    Attributes:
        stage: title of the present stage, empty outside of one.
        done: steps of it that are done; 0 at its beginning.
        total: steps of it.
        message: line for the user, empty when a step is reported.
        step: number of the present step of the whole work, from 1; 0 where it is not known.
        steps: number of steps of the whole work.
        seconds_left: estimate of the time until all of it is done; None where it is not known.
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None


class Silent:
    """Receives everything and shows nothing."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        yield interrupt.check

    def begin(self, schedule: Schedule, step: Step) -> None:
        pass

    def note(self, message: str) -> None:
        pass


class Callback:
    """Calls a function for every beginning of a stage, every step and every line."""

    def __init__(self, function: Callable[[Event], None]) -> None:
        """Prepare the receiver.

        Args:
            function: receives each event, in the thread that does the work. What it raises ends the work.
        """
        self._function = function
        self._now = Event()

    def _tell(self, event: Event) -> None:
        schedule = present_schedule()
        if schedule is not None:
            event = replace(event, step=schedule.number, steps=schedule.count, seconds_left=schedule.left())
        self._function(event)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        around, self._now = self._now, Event(title, 0, total)
        self._tell(self._now)

        def advance() -> None:
            interrupt.check()
            self._now = Event(title, self._now.done + 1, total)
            self._tell(self._now)

        try:
            yield advance
        finally:
            self._now = around

    def begin(self, schedule: Schedule, step: Step) -> None:
        pass  # its first event has the number of the step

    def note(self, message: str) -> None:
        now = self._now
        self._tell(Event(now.stage, now.done, now.total, message))


class Terminal:
    """Shows progress on stderr: one bar a stage on a terminal, plain lines elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Prepare the receiver.

        Args:
            quiet: nothing is shown.
        """
        self.quiet = quiet

    def begin(self, schedule: Schedule, step: Step) -> None:
        if not self.quiet and sys.stderr is not None and not sys.stderr.isatty():
            left = spoken(schedule.left())
            say(f"Step {schedule.number} of {schedule.count}: {step.title} ({left} left in all)")

    def note(self, message: str) -> None:
        if not self.quiet:
            say(message)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        if self.quiet or sys.stderr is None:
            yield interrupt.check
        elif sys.stderr.isatty():
            with _bar(title, total, present_schedule()) as advance:
                yield advance
        else:
            start = time.monotonic()
            yield interrupt.check
            self.note(f"{title}: done in {time.monotonic() - start:.1f} s")


_default: Receiver = Silent()
_receiver: ContextVar[Receiver | None] = ContextVar("receiver", default=None)


def receiver() -> Receiver:
    """The present receiver: that of the innermost ``receive_with``, or the one of the whole process."""
    chosen = _receiver.get()
    return _default if chosen is None else chosen


@contextlib.contextmanager
def receive_with(chosen: Receiver) -> Iterator[None]:
    """Let ``chosen`` receive what happens in the block. Other threads keep the receiver of the whole process."""
    token = _receiver.set(chosen)
    try:
        yield
    finally:
        _receiver.reset(token)


def reporting_to(progress: Progress | None) -> AbstractContextManager[None]:
    """``receive_with`` a callback, or nothing new where there is none."""
    return contextlib.nullcontext() if progress is None else receive_with(Callback(progress))


def set_quiet(quiet: bool) -> None:
    """Let the terminal receive everything in this process, as the command line does.

    Args:
        quiet: nothing but results and errors is shown.
    """
    global _default
    _default = Terminal(quiet=quiet)


def is_quiet() -> bool:
    """True when nothing is shown on the terminal."""
    present = receiver()
    return not isinstance(present, Terminal) or present.quiet


def log(message: str) -> None:
    """Report one line to the user."""
    receiver().note(message)


def stage(title: str, total: int) -> AbstractContextManager[Advance]:
    """Report the progress of a stage.

    Args:
        title: name of the stage for the user.
        total: number of its steps.

    Returns:
        A context manager; its value is a function to call after each step, which raises KeyboardInterrupt when the
        user asked to stop and a library swallowed it.
    """
    return receiver().stage(title, total)


@contextlib.contextmanager
def step_of(schedule: Schedule, name: str) -> Iterator[None]:
    """Do a step of ``schedule`` in the block. Where no bars are shown, its beginning is reported as a line."""
    with schedule.step(name) as step:
        if step is not None:
            receiver().begin(schedule, step)
        yield


@contextlib.contextmanager
def _bar(title: str, total: int, schedule: Schedule | None) -> Iterator[Advance]:
    """A bar with the number of the step, what is done of it, the time left for everything, and the memory in use."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    process = psutil.Process()
    text = TextColumn("{task.description}", markup=False)
    state = TextColumn("{task.fields[state]}", markup=False)
    rest = [] if schedule is not None else [TimeRemainingColumn()]
    if schedule is not None and schedule.number:
        title = f"Step {schedule.number} of {schedule.count}  {title}"
    with Progress(text, BarColumn(), MofNCompleteColumn(), *rest, state, console=Console(stderr=True)) as bar:

        def now() -> str:
            memory = f"{process.memory_info().rss / 1e9:.2f} GB"
            return memory if schedule is None else f"{memory}, {spoken(schedule.left())} left in all"

        task = bar.add_task(clean(title), total=total, state=now())

        def advance() -> None:
            interrupt.check()
            bar.update(task, advance=1, state=now())

        yield advance
