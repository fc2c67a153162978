"""Progress on stderr: one bar a stage on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Switch all progress and log lines off or on."""
    global _quiet
    _quiet = quiet


def log(message: str) -> None:
    """One line for the user on stderr."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stage(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show the progress of ``total`` steps; the value is a function to call after each step."""
    if _quiet:
        yield lambda: None
        return
    if not sys.stderr.isatty():
        start = time.monotonic()
        yield lambda: None
        log(f"{title}: done in {time.monotonic() - start:.1f} s")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
