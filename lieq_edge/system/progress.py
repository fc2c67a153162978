"""Progress on stderr: one bar a stage on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from . import interrupt

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Switch all progress and log lines off or on."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """True when nothing but results and errors is wanted."""
    return _quiet


def log(message: str) -> None:
    """One line for the user on stderr."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def stage(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show the progress of ``total`` steps, their rate, the remaining time and the memory in use.

    The value is a function to call after each step.

    The function raises KeyboardInterrupt when the user asked to stop and a library swallowed it.
    """
    if _quiet:
        yield interrupt.check
        return
    if not sys.stderr.isatty():
        start = time.monotonic()
        yield interrupt.check
        log(f"{title}: done in {time.monotonic() - start:.1f} s")
        return
    import psutil
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    own = psutil.Process()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate="", memory="")
        start, done = time.monotonic(), 0

        def advance() -> None:
            nonlocal done
            interrupt.check()
            done += 1
            rate = f"{done / max(time.monotonic() - start, 1e-9):.1f}/s"
            bar.update(task, advance=1, rate=rate, memory=f"{own.memory_info().rss / 1e9:.2f} GB")

        yield advance
