"""One export at a time in a process.

PyTorch's number of threads and precision, BLAS's threads and llama.cpp's log belong to the process, and transformers
imports its models lazily in a way that two threads break. So a second export waits for the first; by itself each then
writes the bytes that it writes alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from .progress import log

_lock = threading.RLock()


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other thread is within; the waiting is reported."""
    if not _lock.acquire(blocking=False):
        log("Note: another thread of this process is measuring or writing a model; this one waits for it.")
        _lock.acquire()
    try:
        yield
    finally:
        _lock.release()
