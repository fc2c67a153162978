"""The worker process, in which llama.cpp loads, tokenizes and runs models: it may die, this process does not.

llama.cpp ends its process on some damaged files (GGML_ASSERT, a stack that overflows), and never returns on others. In
a process of its own the first becomes one sentence with llama.cpp's last line, and the second ends at a limit. One
worker serves all models of a process; it starts on first use and ends with its parent, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from ..errors import InputError
from ..system.memory import most_beside
from .limits import LOAD_SECONDS, START_SECONDS
from .shared_memory import SIZE, SharedMemory

Event = Callable[..., None]

_ROOT = Path(__file__).resolve().parents[2]
# The current folder and PYTHON* variables do not count (-I); packages come from where this process has them.
_START = """
import json, sys
address, sys.path[:] = json.loads(sys.argv[1])
from lieq_edge.llama.serve import main
main(address)
"""
_STEP, _LONGEST_STEP = 0.1, 1.0
# The system's own limit on a process counts what it allocates, without files that it maps.
_SYSTEM_LIMITS = sys.platform == "linux"
_PATH = re.compile(r"\S*[/\\](?=[^/\\\s]+:\d+: )")


class Child:
    """A worker process; ``shared`` gives the one of this process.

    Attributes:
        owner: process that started it.
        array: view of the memory that both see.
        lock: held during a call; hold it for longer to look at ``array`` afterwards.
    """

    def __init__(self) -> None:
        memory = SharedMemory()
        self.array = memory.array
        self.owner = os.getpid()
        self._released: deque[int] = deque()
        self.lock = threading.RLock()
        self._in_event = False
        self._ready = False
        self._left: list[float] = [float("inf")]
        self._busy = threading.Event()
        self._most_resident: float = float("inf")
        self._stopped_for = ""
        self._sentence = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        path = [*sys.path, str(_ROOT)]
        command = [os.fsdecode(get_executable()), "-I", *(["-B"] if sys.dont_write_bytecode else [])]
        self._process = subprocess.Popen(
            [*command, "-c", _START, json.dumps([memory.address, path])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # ggml would start a debugger before it ends.
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            pass_fds=memory.files,
        )
        memory.close_file()
        threading.Thread(target=self._watch, name="llama.cpp's limits", daemon=True).start()

    @property
    def alive(self) -> bool:
        """It takes calls, as far as is known."""
        return not self._sentence and self.owner == os.getpid() and self._process.poll() is None

    def call(self, name: str, *arguments: Any, label: str, seconds: float, on_event: Event | None = None) -> Any:
        """Call a function of the worker (``loaded.FUNCTIONS``).

        Args:
            name: name of the function.
            arguments: its arguments, JSON values.
            label: name of the model, for messages.
            seconds: time limit.
            on_event: function that is called with each event of the worker; it may look at ``array``, and must not use
                llama.cpp.

        Raises:
            InputError: llama.cpp refuses, dies, or is still at it after the limit.
        """
        with self.lock:
            if self._in_event:
                raise RuntimeError("llama.cpp cannot be called from within one of its own events")
            if self._sentence or self.owner != os.getpid():
                raise InputError(self._sentence or "llama.cpp runs in the process that this one was forked from.")
            released = [self._released.popleft() for _ in range(len(self._released))]
            try:
                if not self._ready:
                    with self._limited(START_SECONDS):
                        self._ready = self._receive()[0] == "ready"
                with self._limited(seconds):
                    kind, value = self._ask([name, arguments, released])
                error: Exception | None = None
                while kind == "event":
                    error = error or self._hand_over(value, on_event)
                    with self._limited(seconds):
                        kind, value = self._ask("stop" if error else "go")
            except EOFError:
                self._bury(label, seconds)
                raise InputError(self._sentence) from None
            except BaseException:
                # Interrupted in the middle of an answer, which the next call could take for its own.
                self._sentence = "llama.cpp was stopped."
                self.kill()
                raise
            if error is not None:
                raise error
            if kind == "error":
                _raise(value[0], value[1], label)
            return value

    def release(self, handle: int) -> None:
        """Free something loaded, at the next call; may be called at any moment, by the garbage collector too."""
        self._released.append(handle)

    def allow_memory(self, path: Path) -> None:
        """Let the worker take as much memory as this machine has to spare, beside the file ``path`` that it maps."""
        if _SYSTEM_LIMITS:
            self.call("limit_memory", most_beside(), label=str(path), seconds=LOAD_SECONDS)
            return
        with contextlib.suppress(psutil.Error, OSError):
            resident = psutil.Process(self._process.pid).memory_info().rss
            self._most_resident = resident + most_beside() + path.stat().st_size

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self._process.wait()
        self._busy.set()  # ends the thread that watches the limits

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        self._left = [seconds]
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()
            self._left = [float("inf")]

    def _watch(self) -> None:
        """End the worker when it takes too long, or too much memory."""
        while True:
            self._busy.wait()
            left, start = self._left, time.monotonic()
            time.sleep(_STEP)
            if self._process.returncode is not None:
                return
            # A machine that slept, or a program that was suspended, has not worked meanwhile.
            left[0] -= min(time.monotonic() - start, _LONGEST_STEP)
            if left[0] < 0:
                self._stopped_for = "time"
            elif not _SYSTEM_LIMITS and self._resident() > self._most_resident:
                self._stopped_for = "memory"
            else:
                continue
            self._process.kill()
            return

    def _resident(self) -> int:
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _ask(self, document: Any) -> tuple[str, Any]:
        """Send a line and wait for the next one.

        Raises:
            EOFError: the worker has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise EOFError from None
        return self._receive()

    def _receive(self) -> tuple[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        kind, value = json.loads(line)
        return kind, value

    def _hand_over(self, values: list[Any], on_event: Event | None) -> Exception | None:
        """Call ``on_event``; returns the error that it raised."""
        assert on_event is not None
        self._in_event = True
        try:
            on_event(*values)
        except Exception as error:
            return error
        finally:
            self._in_event = False
        return None

    def _bury(self, label: str, seconds: float) -> None:
        """Find out why the worker ended, and keep the sentence."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.kill()
        if self._stopped_for == "time" and self._ready:
            self._sentence = (
                f"llama.cpp had not finished with {label} after {seconds:.3g} s and was stopped; the file is probably "
                "damaged: fetch or convert it again, or choose another."
            )
            return
        if self._stopped_for == "memory":
            self._sentence = f"llama.cpp took too much memory for {label} and was stopped; choose a smaller model."
            return
        end = f"{_signal(self._process.returncode)}{self._last_line()}"
        if not self._ready:
            self._sentence = f"llama.cpp could not be started ({end}); install llama-cpp-python again."
            return
        self._sentence = (
            f"llama.cpp ended on {label} ({end}); the file is probably damaged: fetch or convert it again, or choose "
            "another."
        )

    def _last_line(self) -> str:
        """The last line that llama.cpp printed, with the name of its source file without the folder."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4096))
        lines = [line for line in self._errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return f": {_PATH.sub('', lines[-1].strip())}" if lines else ""


def _signal(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"exit code {code:#x}" if code > 255 else f"exit code {code}"
    try:
        return f"signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _raise(kind: str, message: str, label: str) -> None:
    if kind == "InputError":
        raise InputError(message)
    if kind == "MemoryError":
        raise InputError(f"There is not enough memory to run {label} in llama.cpp; choose a smaller model.")
    raise RuntimeError(f"in the process of llama.cpp: {message}")


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


@atexit.register
def _end() -> None:
    if _child is not None and _child.owner == os.getpid():
        _child.kill()


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
