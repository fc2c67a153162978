"""The progress of a sweep on stderr: lines for what is ready, and on a terminal what runs where below them."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..system.schedule import spoken
from ..system.terminal import clean, say

if TYPE_CHECKING:
    from rich.text import Text

    from ..sweep.progress import SweepEvent
    from ..sweep.table import SweepRow


class Board:
    """Shows events of a sweep.

    Attributes:
        ready: number of finished files.
        files: number of all files; 0 before it is known.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.ready = 0
        self.files = 0
        self._quiet = quiet
        self._live: Any = None
        self._begun: set[tuple[str, str]] = set()

    def __enter__(self) -> Board:
        if not self._quiet and sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def show(self, event: SweepEvent) -> None:
        """Receive an event."""
        if event.message:
            if not self._quiet:
                say(event.message)
            return
        self.ready, self.files = event.step, event.steps
        if self._quiet:
            return
        if event.row is not None:
            left = _left(event)
            say(f"{event.step} of {event.steps}: {_result(event.row)}" + (f"; {left}" if left else ""))
        if self._live is not None:
            self._live.update(_lines(event))
        else:
            self._announce(event)

    def _announce(self, event: SweepEvent) -> None:
        """A line for work that begins, where nothing can be redrawn."""
        for running in event.running:
            if (begun := (running.label, running.host)) not in self._begun:
                self._begun.add(begun)
                say(f"{running.host} works on {running.label}")


def _result(row: SweepRow) -> str:
    if row.error is not None:
        return f"{row.label}: {row.error}"
    parts = [f"{(row.bytes or 0) / 1e6:.1f} MB"]
    if row.kld is not None:
        parts.append(f"KL divergence {row.kld:.4g}")
    return f"{row.label}: {', '.join(parts)}, on {row.host}"


def _left(event: SweepEvent) -> str:
    return f"{spoken(event.seconds_left)} left" if event.seconds_left else ""


def _lines(event: SweepEvent) -> Text:
    """How far the sweep is, and a line for each worker that is at work."""
    from rich.text import Text

    lines = [", ".join(part for part in (f"{event.step} of {event.steps} files", _left(event)) if part)]
    for running in event.running:
        steps = f" {running.done}/{running.total}" if running.total else ""
        lines.append(f"  {running.host}: {running.label}: {running.stage or 'starting'}{steps}")
    return Text("\n".join(map(clean, lines)), overflow="ellipsis", no_wrap=True)
