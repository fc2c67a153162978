"""Time and peak memory of a command: of its whole process tree, sampled, and stage by stage.

Resident memory counts pages of mapped files, which the system takes back when others need them; anonymous memory is
memory of the program itself. Pages that processes share are counted in each of them.

Needs Linux or macOS: the end of a process and its use of resources are read by ``os.wait4``, which Windows does not
have. Only Linux reports anonymous memory and lets a process forget its peak.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage
from typing import IO

import psutil

from benchmarks.internals import peak_rss_bytes

INTERVAL = 0.05
"""Seconds between two looks at the tree."""

# Seconds between two searches for new processes, each of which goes through all processes of the system.
_LISTING = 0.2

# The line that the program's progress prints behind each stage where there is no terminal.
_STAGE = re.compile(r"^(?P<title>[^\r\n]+?): done in [\d.]+ s")
_LINES = 200


@dataclass(frozen=True)
class Phase:
    """The time between the ends of two stages; the last one is called ``end``.

    Attributes:
        title: title of the stage that ended.
        seconds: seconds since the stage before it ended.
        rss: peak resident memory of the tree in bytes.
        anonymous: the same without pages of files; None where the system does not report it.
    """

    title: str
    seconds: float
    rss: int
    anonymous: int | None


@dataclass(frozen=True)
class Measured:
    """A command that has ended.

    Attributes:
        returncode: exit code, or the negative number of the signal that ended it.
        seconds: seconds from its start to its end.
        tree_rss: largest sampled sum of the resident sizes of its processes, bytes.
        tree_anonymous: largest sampled sum of their anonymous memory, bytes; None where the system does not report it.
        own_rss: largest resident size of one of its processes, as the system counts it, without gaps.
        phases: peaks between the ends of stages.
        stdout: everything that it printed.
        stderr: last lines that it printed to stderr.
    """

    returncode: int
    seconds: float
    tree_rss: int
    tree_anonymous: int | None
    own_rss: int
    phases: tuple[Phase, ...]
    stdout: str
    stderr: str

    @property
    def peak_rss(self) -> int:
        """The larger of both peaks: samples can miss a short one, and the system sees single processes only."""
        return max(self.tree_rss, self.own_rss)


@dataclass(frozen=True)
class _Look:
    time: float
    rss: int
    anonymous: int | None
    high_water: int


def measure(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Measured:
    """Run a command to its end; its stderr is passed on.

    A command that is interrupted here is killed with all processes that it has started.

    Args:
        command: program and arguments.
        environment: variables beside those of this process.
        folder: folder to run in; None takes the current one.
    """
    looks: list[_Look] = []
    ends: list[tuple[float, str]] = []
    lines: list[str] = []
    with tempfile.TemporaryFile("w+b") as out:
        start = time.monotonic()
        process = subprocess.Popen(
            list(command),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            cwd=folder,
        )
        assert process.stderr is not None
        reader = threading.Thread(target=_follow, args=(process.stderr, ends, lines), daemon=True)
        reader.start()
        try:
            status, usage = _watch(process.pid, looks)
        except BaseException:
            _kill_tree(process.pid)
            process.wait()
            raise
        finish = time.monotonic()
        # It was waited for above; Popen must not look for it again.
        process.returncode = os.waitstatus_to_exitcode(status)
        reader.join(timeout=5)
        out.seek(0)
        stdout = out.read().decode("utf-8", errors="replace")
    # Before its program is loaded, a process is as large as the one that started it, and the system counts that too:
    # only a peak above ours is its own.
    reported = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    own = max([reported if reported > peak_rss_bytes() else 0, *(look.high_water for look in looks)])
    return Measured(
        returncode=process.returncode,
        seconds=finish - start,
        tree_rss=max((look.rss for look in looks), default=0),
        tree_anonymous=_most_anonymous(looks),
        own_rss=own,
        phases=_phases(looks, ends, start, finish),
        stdout=stdout,
        stderr="".join(lines),
    )


def _watch(pid: int, looks: list[_Look]) -> tuple[int, struct_rusage]:
    """Sample until the process ends; its status and its use of resources."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        _, status, usage = os.wait4(pid, 0)
        return status, usage
    processes, listed = [root], -_LISTING
    while True:
        began = time.monotonic()
        if began - listed >= _LISTING:
            with contextlib.suppress(psutil.Error):
                processes = [root, *root.children(recursive=True)]
            listed = began
        looks.append(_look(processes, began))
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended == pid:
            return status, usage
        time.sleep(max(0.001, INTERVAL - (time.monotonic() - began)))


def _look(processes: Sequence[psutil.Process], now: float) -> _Look:
    """Memory of the first process and of those that it has started, now."""
    rss, anonymous, reported = 0, 0, False
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory = process.memory_info()
            rss += memory.rss
            if hasattr(memory, "shared"):
                # Linux: pages of files and of shared memory.
                anonymous += memory.rss - memory.shared
                reported = True
    return _Look(now, rss, anonymous if reported else None, _high_water(processes[0].pid))


def _high_water(pid: int) -> int:
    """Peak resident size of a process so far, in bytes; 0 where the system does not report it."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def forget_peak() -> None:
    """Start the peak of this process anew (Linux only; elsewhere it stays that of the whole run)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def own_peak() -> int:
    """The largest resident size of this process since ``forget_peak``, in bytes."""
    return _high_water(os.getpid()) or peak_rss_bytes()


def _follow(stream: IO[str], ends: list[tuple[float, str]], lines: list[str]) -> None:
    for line in stream:
        if match := _STAGE.match(line):
            ends.append((time.monotonic(), match["title"]))
        lines.append(line)
        del lines[:-_LINES]
        print(f"    {line}", end="", file=sys.stderr, flush=True)


def _phases(
    looks: Sequence[_Look], ends: Sequence[tuple[float, str]], start: float, finish: float
) -> tuple[Phase, ...]:
    phases = []
    since = start
    for until, title in [*ends, (finish, "end")]:
        within = [look for look in looks if since <= look.time < until]
        peak = max((look.rss for look in within), default=0)
        phases.append(Phase(title, until - since, peak, _most_anonymous(within)))
        since = until
    return tuple(phases)


def _most_anonymous(looks: Sequence[_Look]) -> int | None:
    return max((look.anonymous for look in looks if look.anonymous is not None), default=None)


def _kill_tree(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.Error):
                process.kill()
