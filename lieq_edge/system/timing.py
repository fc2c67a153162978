"""Seconds by stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from .memory import forget_garbage

# A stage of so few seconds has made nothing large. Looking for cycles takes 0.3 s where transformers is imported.
_SHORT = 1.0


class Stopwatch:
    """Collects seconds by stage name; memory that a long stage has freed goes back to the system."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage ``name``."""
        start = time.monotonic()
        try:
            yield
        finally:
            if time.monotonic() - start > _SHORT:
                forget_garbage()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
