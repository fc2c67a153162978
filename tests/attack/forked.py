"""Start the process that reads tokenizers by a fork too: what it imports has been imported, which saves a second."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import IO, Any

from lieq_edge.system import child

ENTRY = "lieq_edge.sources.tokenizers.serve"
_STEP = 0.002


class Forked:
    """A forked process, with those parts of ``subprocess.Popen`` that ``lieq_edge.system.child`` uses."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("forked", timeout or 0.0)
            time.sleep(_STEP)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def install() -> None:
    """Fork that process from now on; others are started as ever."""
    own: Any = child.start

    def start(entry: str, argument: Any, **options: Any) -> Any:
        return _start(entry, argument, **options) if entry == ENTRY else own(entry, argument, **options)

    child.start = start


def _start(
    entry: str, argument: Any, *, errors: IO[bytes], environment: Mapping[str, str], files: Sequence[int]
) -> Forked:
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        _serve(entry, argument, (their_in, their_out, errors.fileno()), environment, files)
    os.close(their_in)
    os.close(their_out)
    return Forked(pid, os.fdopen(our_out, "wb"), os.fdopen(our_in, "rb"))


def _serve(
    entry: str, argument: Any, ends: tuple[int, int, int], environment: Mapping[str, str], files: Sequence[int]
) -> None:
    """Become the child; does not return."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for number, end in enumerate(ends):
            os.dup2(end, number)
        # Ends of pipes to other children are among the open files, and these have to notice when their parent ends.
        # The numbers stay taken, for objects that were copied with this process still close them.
        nothing = os.open(os.devnull, os.O_RDWR)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in files:
                os.dup2(nothing, int(name))
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.update(environment)
        importlib.import_module(entry).main(argument)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
