"""Processes that may die, hang or fill the memory without this one: native libraries read files of strangers there.

A death becomes one sentence with the library's last line, and a hang ends at a limit. A child starts on demand, talks
over pipes (``worker`` is its end), and ends with its parent, however that ends.
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
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import IO, Any

import psutil

from ..errors import InputError
from .memory import says_full

Event = Callable[..., None]

START_SECONDS = 120.0
"""For a process to start."""

_ROOT = Path(__file__).resolve().parents[2]
# The current folder and PYTHON* variables do not count (-I); packages come from where this process has them.
_START = """
import importlib, json, sys
entry, argument, sys.path[:] = json.loads(sys.argv[1])
importlib.import_module(entry).main(argument)
"""
_STEP, _LONGEST_STEP = 0.1, 1.0
# The system's own limit on a process counts what it allocates, without files that it maps.
_SYSTEM_LIMITS = sys.platform == "linux"
_SIGKILL = 9
_PATH = re.compile(r"\S*[/\\](?=[^/\\\s]+:\d+: )")

_present: weakref.WeakSet[Child] = weakref.WeakSet()


def start(
    entry: str, argument: Any, *, errors: IO[bytes], environment: Mapping[str, str], files: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start a process whose stdin and stdout are pipes.

    Args:
        entry: module whose function ``main`` serves.
        argument: its argument, a JSON value.
        errors: file that takes what the process prints.
        environment: variables beside those of this process.
        files: numbers of files that it inherits.
    """
    path = [*sys.path, str(_ROOT)]
    command = [os.fsdecode(get_executable()), "-I", *(["-B"] if sys.dont_write_bytecode else [])]
    return subprocess.Popen(
        [*command, "-c", _START, json.dumps([entry, argument, path])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, **environment},
        pass_fds=files,
    )


@dataclass(frozen=True)
class Limit:
    """What a call may take.

    Attributes:
        seconds: time, while which this machine is awake.
        computing: processor time of the process alone, without its own children.
    """

    seconds: float = float("inf")
    computing: float = float("inf")


@dataclass(frozen=True)
class End:
    """How a child ended.

    Attributes:
        cause: ``time`` or ``memory`` for a limit, ``start`` where it ended before it took calls, else ``death``.
        label: what the call was about.
        limit: limit of the call.
        how: exit code or signal, and the last line that it printed.
    """

    cause: str
    label: str
    limit: Limit
    how: str


class StoppedError(InputError):
    """A process came to a limit, was stopped, or did not start, which says little about its input."""


class Child(ABC):
    """A process beside this one.

    Attributes:
        name: what runs there, for messages.
        owner: process that started it.
        lock: held during a call.
    """

    name: str

    def __init__(
        self,
        entry: str,
        argument: Any = None,
        *,
        environment: Mapping[str, str] | None = None,
        files: Sequence[int] = (),
    ) -> None:
        """Start it; the first call waits until it is ready.

        Args:
            entry: module whose function ``main`` serves, with a ``worker.Worker``.
            argument: its argument, a JSON value.
            environment: variables beside those of this process.
            files: numbers of files that it inherits.
        """
        self.owner = os.getpid()
        self.lock = threading.RLock()
        self._released: deque[int] = deque()
        self._in_event = False
        self._ready = False
        self._left = Limit()
        self._busy = threading.Event()
        self._most_resident: float = float("inf")
        self._stopped_for = ""
        self._sentence = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = start(entry, argument, errors=self._errors, environment=environment or {}, files=files)
        _present.add(self)
        threading.Thread(target=self._watch, name=f"limits of {self.name}", daemon=True).start()

    @abstractmethod
    def explain(self, end: End) -> str:
        """The sentence for the user."""

    @abstractmethod
    def explain_memory(self, label: str) -> str:
        """The sentence for the user after an error at a full memory that the process has survived."""

    @property
    def alive(self) -> bool:
        """It takes calls, as far as is known."""
        return not self._sentence and self.owner == os.getpid() and self._process.poll() is None

    def call(
        self,
        name: str,
        *arguments: Any,
        label: str,
        seconds: float,
        computing: float = float("inf"),
        on_event: Event | None = None,
    ) -> Any:
        """Call a function of the worker.

        Args:
            name: name of the function.
            arguments: its arguments, JSON values.
            label: what it is about, for messages.
            seconds: time limit.
            computing: limit on processor time.
            on_event: function that is called with each event of the worker; it must not call the worker.

        Raises:
            InputError: the worker refuses, dies, or is still at it after the limit.
        """
        limit = Limit(seconds, computing)
        with self.lock:
            if self._in_event:
                raise RuntimeError(f"{self.name} cannot be called from within one of its own events")
            if self._sentence or self.owner != os.getpid():
                raise StoppedError(self._sentence or f"{self.name} runs in the process that this one was forked from.")
            released = [self._released.popleft() for _ in range(len(self._released))]
            try:
                if not self._ready:
                    with self._limited(Limit(START_SECONDS)):
                        self._ready = self._receive()[0] == "ready"
                with self._limited(limit):
                    kind, value = self._ask([name, arguments, released])
                error: Exception | None = None
                while kind == "event":
                    error = error or self._hand_over(value, on_event)
                    with self._limited(limit):
                        kind, value = self._ask("stop" if error else "go")
            except EOFError:
                raise self._bury(label, limit) from None
            except BaseException:
                # Interrupted in the middle of an answer, which the next call could take for its own.
                self._sentence = f"{self.name} was stopped."
                self.kill()
                raise
            if error is not None:
                raise error
            if kind == "error":
                self._raise(value[0], value[1], label)
            return value

    def release(self, handle: int) -> None:
        """Free something loaded, at the next call; may be called at any moment, by the garbage collector too."""
        self._released.append(handle)

    def limit_memory(self, size: int, *, mapped: int = 0) -> None:
        """Let the process take at most ``size`` bytes more than it has, beside ``mapped`` bytes of files."""
        if _SYSTEM_LIMITS:
            self.call("limit_memory", size, label="memory", seconds=START_SECONDS)
            return
        # What it takes until it is ready does not count, and a process that ends before would be taken for one that
        # cannot start.
        self.call("peak_bytes", label="memory", seconds=START_SECONDS)
        with contextlib.suppress(psutil.Error, OSError):
            resident = psutil.Process(self._process.pid).memory_info().rss
            self._most_resident = resident + size + mapped

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        self._busy.set()  # ends the thread that watches the limits

    @contextlib.contextmanager
    def _limited(self, limit: Limit) -> Iterator[None]:
        self._left = replace(limit)  # a new one begins anew
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()
            self._left = Limit()

    def _watch(self) -> None:
        """End the process when it takes too long, or too much memory."""
        limit, left, since = Limit(), 0.0, 0.0
        while True:
            self._busy.wait()
            if limit is not self._left:
                limit = self._left
                left, since = limit.seconds, self._computed() if limit.computing < float("inf") else 0.0
            start = time.monotonic()
            time.sleep(_STEP)
            if self._process.returncode is not None:
                return
            # A machine that slept, or a program that was suspended, has not worked meanwhile.
            left -= min(time.monotonic() - start, _LONGEST_STEP)
            if limit is not self._left:
                continue
            if left < 0 or (limit.computing < float("inf") and self._computed() - since > limit.computing):
                self._stopped_for = "time"
            elif not _SYSTEM_LIMITS and self._resident() > self._most_resident:
                self._stopped_for = "memory"
            else:
                continue
            self._process.kill()
            return

    def _resident(self) -> int:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self._process.pid).memory_info().rss)
        return 0

    def _computed(self) -> float:
        """Seconds that the process has computed."""
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self._process.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

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

    def _bury(self, label: str, limit: Limit) -> InputError:
        """Find out why the process ended, and keep the sentence."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.kill()
        code, printed = self._process.returncode, self._printed()
        if not self._ready and self._stopped_for:
            self._sentence = (
                f"{self.name} did not start within {START_SECONDS:.0f} s; this machine is very busy, so try again."
            )
            return StoppedError(self._sentence)
        cause = "start" if not self._ready else self._stopped_for
        if not cause:
            # Linux kills with SIGKILL when the memory of the machine is full.
            cause = "memory" if says_full(printed) or code == -_SIGKILL else "death"
        self._sentence = self.explain(End(cause, label, limit, f"{_signal(code)}{_last_line(printed)}"))
        return InputError(self._sentence) if cause == "death" else StoppedError(self._sentence)

    def _printed(self) -> str:
        """The last that the library has printed."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 4096))
        return self._errors.read().decode("utf-8", "replace")

    def _raise(self, kind: str, message: Any, label: str) -> None:
        if kind == "OSError":
            number, text, where = message
            raise OSError(number, text, *([] if where is None else [where]))
        if kind == "InputError":
            raise InputError(message)
        if kind == "MemoryError":
            raise StoppedError(self.explain_memory(label))
        raise RuntimeError(f"in the process of {self.name}: {message}")


def _last_line(printed: str) -> str:
    """The last line, with the name of a source file without the folder."""
    lines = [line for line in printed.splitlines() if line.strip()]
    return f": {_PATH.sub('', lines[-1].strip())}" if lines else ""


def _signal(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"exit code {code:#x}" if code > 255 else f"exit code {code}"
    try:
        return f"signal {-code}, {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


@atexit.register
def kill_all() -> None:
    """End all processes that this one has started; one that is in the middle of native code would notice late."""
    for child in list(_present):
        if child.owner == os.getpid():
            child.kill()
