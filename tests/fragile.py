"""A child process for tests, whose functions end it, hang, or fail."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lieq_edge.system.worker import Worker


def main(_: object) -> None:
    """Serve the parent process."""
    Worker().serve({"answer": _answer, "die": _die, "wait": _wait, "compute": _compute, "fail": _fail})


def _answer(_: Worker, value: Any) -> Any:
    return value


def _die(_: Worker, words: str) -> None:
    os.write(2, f"first\n/a/folder/file.cpp:7: {words}\n".encode())
    os.abort()


def _wait(_: Worker) -> None:
    time.sleep(600)


def _compute(_: Worker) -> None:
    while True:
        pass


def _fail(_: Worker, name: str, path: str) -> None:
    if name == "OSError":
        Path(path).read_bytes()
    raise {"MemoryError": MemoryError, "RuntimeError": RuntimeError}[name](path)
