"""Memory of this process and of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import re
import sys
from pathlib import Path

import psutil

if sys.platform != "win32":
    import resource

WIDE = 4096
"""Columns from which square matrices are large: each takes 64 MB at least, and a product with one takes long."""

# Part of the machine's memory that is not worth sparing: pages that are given back have to be taken anew, and files
# take pages too.
_SMALL_PART = 1 / 8
# No more than this, however much is free: writing it to a disk takes a few seconds.
_SMALL_BYTES = 1 << 29
# The same for all that this process has, spilled arrays that stay in memory included.
_SMALL_PROCESS = 1 / 4


def peak_rss_bytes() -> int:
    """The largest resident size that this process has had, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Linux counts in KiB, macOS in bytes.
        return peak if sys.platform == "darwin" else peak * 1024


def _resident_bytes() -> int:
    """The present resident size of this process."""
    return int(psutil.Process().memory_info().rss)


# PyTorch ("DefaultCPUAllocator: can't allocate memory", "not enough memory"), C++, Rust, and threads without a stack.
_FULL = re.compile(
    r"can(?:no|')t allocate memory|not enough memory|out of memory|bad[ _]alloc|failed to allocate|unable to allocate"
    r"|memory allocation|can't start new thread",
    re.IGNORECASE,
)


def says_full(text: str) -> bool:
    """True for the words of a library that found the memory full."""
    return _FULL.search(text) is not None


def is_memory_error(error: BaseException | None) -> bool:
    """True for an error that says that the memory is full, or comes of one that does; libraries have own kinds."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error may be its own cause
        seen.add(id(error))
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if says_full(str(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def is_little_memory(size: int) -> bool:
    """True when ``size`` bytes are a small part of the memory that is free, and at most half a GB."""
    return size <= min(_SMALL_PART * free_bytes(), _SMALL_BYTES)


def free_bytes() -> int:
    """Free memory of the machine, or what a container may still take of it."""
    free = int(psutil.virtual_memory().available)
    limit = _container_limit()
    return free if limit is None else min(free, max(limit[0] - limit[1], 0))


def _memory_bytes() -> int:
    """Memory of the machine, or what a container may take of it."""
    total = int(psutil.virtual_memory().total)
    limit = _container_limit()
    return total if limit is None else min(total, limit[0])


# Files in which Linux's control groups show a container its limit and what it takes, by their version.
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def _container_limit() -> tuple[int, int] | None:
    """Bytes that this container may take and those that it has, its files in memory included; None without a limit."""
    for limit, used in _LIMITS:
        # Without a limit the first file says "max".
        with contextlib.suppress(OSError, ValueError):
            return int(limit.read_text()), int(used.read_text())
    return None


# Names of settings in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Bytes of freed memory that are held back, and the largest size that glibc takes from them.
_HELD_BYTES, _LARGEST_HELD = 1 << 28, 1 << 25


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep some freed memory instead of giving it back to the system at once.

    Running a block allocates and frees the same tensors of about 10 MB over and over. By default glibc gives each back
    and asks for it again, and the pages' first touch then takes as long as the arithmetic. Threads share what was
    freed: with memory of their own, each would keep the most that it ever used. Only glibc has these settings.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl does not have it
            mallopt(_M_TRIM_THRESHOLD, _HELD_BYTES)
            mallopt(_M_MMAP_THRESHOLD, _LARGEST_HELD)
            mallopt(_M_ARENA_MAX, 1)


def forget_garbage() -> None:
    """Free objects that refer to each other in circles, as models do, and give their memory back."""
    gc.collect()
    give_back_memory()


def give_back_memory(columns: int = WIDE) -> None:
    """Give freed memory back to the system before something large is allocated. Only glibc can do that.

    Args:
        columns: size of the matrices that come next. For few columns the memory is kept to be used again while this
            process has a small part of the machine's.
    """
    if columns < WIDE and _resident_bytes() < _SMALL_PROCESS * _memory_bytes():
        return
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def most_beside() -> int:
    """Bytes that another process may take beside this one: what is free, but at least half of the machine's memory."""
    return max(free_bytes(), _memory_bytes() // 2)
