"""A process that may die, and whose parent lives (``child`` is the other end).

It reads requests from stdin and answers on the former stdout, one JSON document a line:

    parent: [name, [arguments], [handles to release]]
    worker: ["ready", null]         once
    worker: ["event", [...]]        while it works; the parent answers "go" or "stop"
    worker: ["result", value]       or ["error", [kind, message]]

Prints of libraries go to stderr, whose last line says why it died.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from .memory import is_memory_error, peak_rss_bytes

if sys.platform == "linux":
    import resource


_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of sys/prctl.h


class Stopped(Exception):
    """The parent does not want the rest."""


class Worker:
    """The worker's side of the conversation.

    Attributes:
        objects: what was loaded, by handle.
    """

    def __init__(self) -> None:
        """Take over the process: its stdin and stdout become the way to the parent."""
        # Ctrl-C reaches every process of a terminal; the parent decides. On Windows it waits for this process without
        # noticing Ctrl-C, so this process ends.
        signal.signal(signal.SIGINT, signal.SIG_DFL if sys.platform == "win32" else signal.SIG_IGN)
        # Prints of libraries must not come between the answers.
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self.objects: dict[int, Any] = {}
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._handles = 0
        threading.Thread(target=self._read, args=(os.fdopen(os.dup(0), "rb"),), daemon=True).start()

    def _read(self, requests: BinaryIO) -> None:
        """Take lines from the parent; when it has ended, end too, also within a call of a library that hangs."""
        for line in requests:
            self._lines.put(line)
        os._exit(0)

    def serve(self, functions: dict[str, Callable[..., Any]]) -> None:
        """Answer requests for ever; each function gets this object before its arguments."""
        functions = {
            "limit_memory": limit_memory, "peak_bytes": peak_bytes, "release": Worker.release, **functions
        }  # fmt: skip
        self._send(["ready", None])
        while True:
            name, arguments, released = json.loads(self._lines.get())
            for handle in released:
                self.release(handle)
            try:
                answer = ["result", functions[name](self, *arguments)]
            except InputError as error:
                answer = ["error", ["InputError", str(error)]]
            except OSError as error:
                where = None if error.filename is None else str(error.filename)
                answer = ["error", ["OSError", [error.errno, error.strerror or str(error), where]]]
            except Stopped:
                answer = ["error", ["Stopped", ""]]
            except Exception as error:
                kind = "MemoryError" if is_memory_error(error) else "mistake"
                answer = ["error", [kind, traceback.format_exc()]]
            self._send(answer)

    def add(self, loaded: Any) -> int:
        """The handle of a loaded object."""
        self._handles += 1
        self.objects[self._handles] = loaded
        return self._handles

    def release(self, handle: int) -> None:
        """Free a loaded object; a handle that is not known any more is passed over."""
        if (loaded := self.objects.pop(handle, None)) is not None:
            loaded.close()

    def event(self, *values: Any) -> None:
        """Report something to the parent before the result, and wait until it has looked.

        Raises:
            Stopped: the parent does not want the rest.
        """
        self._send(["event", list(values)])
        if json.loads(self._lines.get()) != "go":
            raise Stopped

    def _send(self, document: Any) -> None:
        self._answers.write(json.dumps(document).encode() + b"\n")
        self._answers.flush()


def end_with_parent() -> None:
    """Let Linux end this process with the thread that started it, within native code that lets no other thread run."""
    if sys.platform == "linux":
        parent = os.getppid()
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(_SET_DEATH_SIGNAL, int(signal.SIGKILL))
        if os.getppid() != parent:  # it has ended meanwhile
            os._exit(0)


def peak_bytes(_: Worker) -> int:
    """The largest resident size that this process has had."""
    if sys.platform == "linux":
        # getrusage counts the process that started this one, too.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return peak_rss_bytes()


def limit_memory(_: Worker, size: int) -> None:
    """Let this process take at most ``size`` bytes more than it has; files that it maps do not count.

    Elsewhere than on Linux the parent looks at how much there is.
    """
    if sys.platform == "linux":
        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = data_pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
