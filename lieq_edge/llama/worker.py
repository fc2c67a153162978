"""The process in which llama.cpp runs. It may die of a file, and its parent lives (``child`` is the other end).

It reads requests from stdin and answers on the former stdout, one JSON document a line:

    parent: [name, [arguments], [handles to release]]
    worker: ["ready", null]         once
    worker: ["event", [...]]        while it works; the parent answers "go" or "stop"
    worker: ["result", value]       or ["error", [kind, message]]

Large arrays lie in the shared memory. Prints of llama.cpp go to stderr, whose last line says why it died.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from ..system.memory import peak_rss_bytes
from .shared_memory import SharedMemory

if sys.platform == "linux":
    import resource


class Stopped(Exception):
    """The parent does not want the rest."""


class Worker:
    """The worker's side of the conversation.

    Attributes:
        memory: shared with the parent.
        objects: loaded models and vocabularies by handle.
    """

    def __init__(self, requests: BinaryIO, answers: BinaryIO, memory: SharedMemory) -> None:
        self.memory = memory
        self.objects: dict[int, Any] = {}
        self._answers = answers
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._handles = 0
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()

    def _read(self, requests: BinaryIO) -> None:
        """Take lines from the parent; when it has ended, end too, also within a call of llama.cpp that hangs."""
        for line in requests:
            self._lines.put(line)
        os._exit(0)

    def serve(self, functions: dict[str, Callable[..., Any]]) -> None:
        """Answer requests for ever."""
        self._send(["ready", None])
        while True:
            name, arguments, released = json.loads(self._lines.get())
            for handle in released:
                self.release(handle)
            try:
                answer = ["result", functions[name](self, *arguments)]
            except InputError as error:
                answer = ["error", ["InputError", str(error)]]
            except MemoryError:
                answer = ["error", ["MemoryError", ""]]
            except Stopped:
                answer = ["error", ["Stopped", ""]]
            except Exception:
                answer = ["error", ["mistake", traceback.format_exc()]]
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


def peak_bytes(_: Worker) -> int:
    """The largest resident size that this process has had."""
    if sys.platform == "linux":
        # getrusage counts the process that started this one, too.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return peak_rss_bytes()


def limit_memory(worker: Worker, size: int) -> None:
    """Let this process take at most ``size`` bytes more than it has; files that it maps do not count.

    Elsewhere than on Linux the parent looks at how much there is.
    """
    if sys.platform == "linux":
        data_pages = int(Path("/proc/self/statm").read_text().split()[5])
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = data_pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
