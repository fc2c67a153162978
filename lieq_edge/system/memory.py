"""Peak memory of this process and time by stage."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WIDE = 4096
"""Columns from which square matrices are large: each takes 64 MB at least, and a product with one takes long."""

# A stage of so few seconds has made nothing large. Looking for cycles takes 0.3 s where transformers is imported.
_SHORT = 1.0

# Part of the machine's memory that is not worth sparing: pages that are given back have to be taken anew, and what goes
# to files takes pages too.
_SMALL_PART = 1 / 8
# The same of all that this process has, what waits in its memory included.
_SMALL_PROCESS = 1 / 4


class Stopwatch:
    """Collects seconds by stage name."""

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


def peak_rss_bytes() -> int:
    """The largest resident size that this process has had, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def _resident_bytes() -> int:
    """The present resident size of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def is_little_memory(size: int) -> bool:
    """``size`` bytes are a small part of the memory that is free."""
    return size <= _SMALL_PART * _free_bytes()


def _free_bytes() -> int:
    """Of the machine, or of what a container may still take of it."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _container_limit()
    return free if limit is None else min(free, max(limit[0] - limit[1], 0))


def _memory_bytes() -> int:
    """Of the machine, or what a container may take of it."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = _container_limit()
    return total if limit is None else min(total, limit[0])


# Where a container sees its own limit and what it takes, by version of Linux's control groups.
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def _container_limit() -> tuple[int, int] | None:
    """Bytes that this container may take and those that it has, its files in memory included; None without a limit."""
    for limit, used in _LIMITS:
        # Without a limit the first says "max".
        with contextlib.suppress(OSError, ValueError):
            return int(limit.read_text()), int(used.read_text())
    return None


# Names of settings in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Bytes of freed memory that are kept; and the largest size that glibc lets come from the memory that is kept.
_KEPT_BYTES, _LARGEST_KEPT = 1 << 28, 1 << 25


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep some freed memory instead of giving it back to the system at once.

    Running a block allocates and frees the same tensors of about 10 MB over and over. By default glibc gives each back
    and asks for it again, and the pages' first touch then takes as long as the arithmetic. Threads share what was
    freed: with memory of their own, each would keep the most that it ever used. Does nothing elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_ARENA_MAX, 1)


def forget_garbage() -> None:
    """Look for cycles, which models have and which keep them in memory, and give back what is freed."""
    gc.collect()
    give_back_memory()


def give_back_memory(columns: int = WIDE) -> None:
    """Give freed memory back to the system, before something large is allocated. Does nothing without glibc.

    For matrices of few ``columns`` it is kept, to be used again, while this process has a small part of the machine's.
    """
    if columns < WIDE and _resident_bytes() < _SMALL_PROCESS * _memory_bytes():
        return
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def most_beside() -> int:
    """Bytes that another process may take beside this one: what is free, but at least half of the machine's memory."""
    return max(_free_bytes(), _memory_bytes() // 2)
