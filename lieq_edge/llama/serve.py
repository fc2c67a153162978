"""Entry point of the worker process; it imports little, so that it starts soon. Imports llama.cpp."""

from __future__ import annotations

import os
import signal
import sys

from . import loaded, quantizer, rendering, timed, writer
from .shared_memory import SharedMemory
from .worker import Worker, limit_memory, peak_bytes


def main(address: int | str) -> None:
    """Serve the parent process.

    Args:
        address: address of the shared memory.
    """
    # Ctrl-C reaches every process of a terminal; the parent decides. On Windows it waits for this process without
    # noticing Ctrl-C, so this process ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL if sys.platform == "win32" else signal.SIG_IGN)
    # Prints of llama.cpp must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(os.fdopen(os.dup(0), "rb"), answers, SharedMemory(address))
    worker.serve(
        {
            "limit_memory": limit_memory,
            "peak_bytes": peak_bytes,
            "release": Worker.release,
            **loaded.FUNCTIONS,
            **quantizer.FUNCTIONS,
            **rendering.FUNCTIONS,
            **timed.FUNCTIONS,
            **writer.FUNCTIONS,
        }
    )
