"""Run the command line in tests."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from lieq_edge.cli import main


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in this process: importing torch and transformers anew would take most of the time."""
    out, errors = io.StringIO(), io.StringIO()
    words = ["lieq-edge", *map(str, arguments)]
    with mock.patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(errors):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        else:
            code = 0
    return subprocess.CompletedProcess(words, code, out.getvalue(), errors.getvalue())


def run_installed(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed entry point, as a user calls it."""
    program = Path(sys.executable).parent / "lieq-edge"
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=600)


def kill_below(number: int, name: str = "") -> None:
    """Kill what a process has started, and what that has started; only processes with ``name`` in their names."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(number).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if name in process.name():
                    process.kill()


@contextmanager
def started(words: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended with the block, and so is what it started: a test that fails waits for none of it."""
    process = subprocess.Popen([str(word) for word in words], text=True, **options)
    try:
        yield process
    finally:
        kill_below(process.pid)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one sentence that says the words, no traceback."""
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in last, last
