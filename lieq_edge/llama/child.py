"""The worker process, in which llama.cpp loads, tokenizes and runs models: it may die, this process does not.

llama.cpp ends its process on some damaged files (GGML_ASSERT, a stack that overflows), and never returns on others.
One worker serves all models of a process; it starts on first use and ends with its parent.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..system import child
from ..system.child import End, Event
from ..system.memory import most_beside
from .limits import LOAD_SECONDS
from .shared_memory import SIZE, SharedMemory

# An instruction that the processor refuses, on Unix and on Windows. The wheel may come from another machine, and GCC
# breaks ggml's code for AMX (llama.cpp's pull request 26954).
_ILLEGAL = ("SIGILL", "0xc000001d")


class Child(child.Child):
    """A worker process; ``shared`` gives the one of this process.

    Attributes:
        array: view of the memory that both see; hold ``lock`` beyond a call to look at it afterwards. An event may
            look at it.
    """

    name = "llama.cpp"

    def __init__(self) -> None:
        memory = SharedMemory()
        self.array = memory.array
        # ggml would start a debugger before it ends.
        environment = {"GGML_NO_BACKTRACE": "1"}
        super().__init__("lieq_edge.llama.serve", memory.address, environment=environment, files=memory.files)
        memory.close_file()

    def allow_memory(self, path: Path) -> None:
        """Let the worker take as much memory as this machine has to spare, beside the file ``path`` that it maps."""
        try:
            mapped = path.stat().st_size
        except OSError:  # told when it is loaded
            mapped = 0
        self.limit_memory(most_beside(), mapped=mapped)

    def explain(self, end: End) -> str:
        label = end.label
        if end.cause in ("start", "death") and any(sign in end.how for sign in _ILLEGAL):
            return (
                f"llama.cpp, as it was built, does not run on this processor ({end.how}); build it again with "
                'CMAKE_ARGS="-DGGML_NATIVE=OFF" pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python'
            )
        if end.cause == "start":
            return f"llama.cpp could not be started ({end.how}); install llama-cpp-python again."
        if end.cause == "memory":
            return f"llama.cpp took too much memory for {label} and was stopped; choose a smaller model."
        advice = "the file is probably damaged: fetch or convert it again, or choose another."
        if end.cause == "time":
            return f"llama.cpp had not finished with {label} after {end.limit.seconds:.3g} s and was stopped; {advice}"
        return f"llama.cpp ended on {label} ({end.how}); {advice}"

    def explain_memory(self, label: str) -> str:
        return f"There is not enough memory to run {label} in llama.cpp; choose a smaller model."


_child: Child | None = None
_starting = threading.Lock()


def shared() -> Child:
    """The worker of this process; a new one where there is none, or where the last one died."""
    global _child
    with _starting:
        if _child is None or not _child.alive:
            _child = Child()
        return _child


def peak_bytes() -> int:
    """The largest resident size that the worker of this process has had; 0 where none runs.

    It comes beside ``peak_rss_bytes`` of this process, though not always at the same moment.
    """
    if _child is None or not _child.alive:
        return 0
    size: int = _child.call("peak_bytes", label="memory", seconds=LOAD_SECONDS)
    return size


class Loaded:
    """Something that the worker has loaded.

    Attributes:
        path: the file.
        label: what messages call it.
    """

    def __init__(self, path: Path, label: str, function: str, *arguments: Any, seconds: float) -> None:
        self.path = path
        self.label = label
        self._child = child = shared()
        child.allow_memory(path)
        self.facts: dict[str, Any] = child.call(
            function, encoded_path(path), label, *arguments, label=label, seconds=seconds
        )
        self._handle: int = self.facts["handle"]
        self._closed = weakref.finalize(self, child.release, self._handle)

    @property
    def alive(self) -> bool:
        """The worker still has it."""
        return self._closed.alive and self._child.alive

    def call(self, function: str, *arguments: Any, seconds: float, on_event: Event | None = None) -> Any:
        """Call a function of the worker with its handle."""
        assert self._closed.alive, "it was closed"
        return self._child.call(
            function, self._handle, *arguments, label=self.label, seconds=seconds, on_event=on_event
        )

    def shared_array(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """The array that the worker has put into the shared memory."""
        return self._child.array(shape, np.float32)

    def logits(self, out: npt.NDArray[np.float32], start: int = 0, *, seconds: float) -> None:
        """Copy rows of the last logits, from ``start`` on, into ``out``: ``(rows, vocabulary)``."""
        at_once = max(1, SIZE // (4 * out.shape[1]))
        for first in range(0, len(out), at_once):
            part = out[first : first + at_once]
            # Another thread could use the memory between the call and the copy.
            with self._child.lock:
                self.call("give_logits", start + first, len(part), seconds=seconds)
                part[:] = self._child.array(part.shape, np.float32)

    def close(self) -> None:
        """Free it; further calls do nothing."""
        if self._closed.detach() and self._child.alive:
            with contextlib.suppress(InputError):
                self._child.call("release", self._handle, label=self.label, seconds=LOAD_SECONDS)


def encoded_path(path: Path) -> str:
    """A path as the worker takes it: its bytes, one character for each."""
    return os.fsencode(path.absolute()).decode("latin-1")
