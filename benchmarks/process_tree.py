"""Time and peak memory of a command: of its whole process tree, sampled, and stage by stage.

Resident memory counts pages of mapped files, which the system takes back when others need them; anonymous memory is
what the program itself holds. Pages that processes share are counted in each of them.
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

from lieq_edge.system.memory import peak_rss_bytes

INTERVAL = 0.05
"""Seconds between two looks at the tree."""

# Seconds between two looks for processes that were started: those of the whole system are gone through.
_LISTING = 0.2

# What the program's progress prints behind each stage where there is no terminal.
_STAGE = re.compile(r"^(?P<title>[^\r\n]+?): done in [\d.]+ s")
_KEPT_LINES = 200


@dataclass(frozen=True)
class Phase:
    """What lies between the ends of two stages; the last one is called ``end``.

    Attributes:
        title: of the stage that ended.
        seconds: it took, with whatever came before it.
        rss: peak of the tree, bytes.
        anonymous: the same without pages of files; None where the system does not tell.
    """

    title: str
    seconds: float
    rss: int
    anonymous: int | None


@dataclass(frozen=True)
class Measured:
    """A command that has ended.

    Attributes:
        seconds: from its start to its end.
        tree_rss: largest sampled sum of the resident sizes of its processes, bytes.
        tree_anonymous: largest sampled sum of their anonymous memory, bytes; None where the system does not tell.
        own_rss: largest resident size of a single process of it, as the system counts it, without gaps.
        stdout: all of it.
        stderr: its last lines.
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
    """Run a command to its end; what it writes to stderr is passed on.

    Args:
        command: program and arguments.
        environment: variables beside those of this process.
        folder: to run in.

    A command that is interrupted here is killed with all processes that it has started.
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
    # What is told of a process that has ended counts the moment before its program was loaded, too, when it was as
    # large as the one that started it: only what exceeds that is its own.
    told = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    own = max([told if told > peak_rss_bytes() else 0, *(look.high_water for look in looks)])
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
    """Sample until the process ends; its status and what it used."""
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
    """Of the first process and those that it has started."""
    rss, anonymous, told = 0, 0, False
    for process in processes:
        with contextlib.suppress(psutil.Error):
            memory = process.memory_info()
            rss += memory.rss
            if hasattr(memory, "shared"):
                # Linux: pages of files and of shared memory.
                anonymous += memory.rss - memory.shared
                told = True
    return _Look(now, rss, anonymous if told else None, _high_water(processes[0].pid))


def _high_water(pid: int) -> int:
    """Peak resident size of a process so far, in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def _follow(stream: IO[str], ends: list[tuple[float, str]], lines: list[str]) -> None:
    for line in stream:
        if match := _STAGE.match(line):
            ends.append((time.monotonic(), match["title"]))
        lines.append(line)
        del lines[:-_KEPT_LINES]
        print(f"    {line}", end="", file=sys.stderr, flush=True)


def _phases(
    looks: Sequence[_Look], ends: Sequence[tuple[float, str]], start: float, finish: float
) -> tuple[Phase, ...]:
    found = []
    since = start
    for until, title in [*ends, (finish, "end")]:
        within = [look for look in looks if since <= look.time < until]
        peak = max((look.rss for look in within), default=0)
        found.append(Phase(title, until - since, peak, _most_anonymous(within)))
        since = until
    return tuple(found)


def _most_anonymous(looks: Sequence[_Look]) -> int | None:
    return max((look.anonymous for look in looks if look.anonymous is not None), default=None)


def _kill_tree(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.Error):
                process.kill()
