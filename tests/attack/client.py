"""Start the process that forks the cases, and ask it for verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Seconds that the process has to remove its folder at the end.
_PATIENCE = 60


@dataclass(frozen=True)
class Verdict:
    """The end of a case.

    Attributes:
        failure: what is wrong, None when it held.
        skipped: reason why it could not be tried, or an empty text.
        seconds: seconds of computing.
    """

    kind: str
    number: Any
    name: str
    failure: str | None
    skipped: str
    seconds: float

    @property
    def repro(self) -> str:
        """The command that tries this case alone."""
        return f"python -m tests.attack.run {self.kind} {self.number}"


class Attackers:
    """The process that forks cases; use it in a ``with`` block."""

    def __init__(self, jobs: int, *, verbose: bool = False) -> None:
        command = [sys.executable, str(Path(__file__).with_name("server.py")), str(jobs), *(["-v"] if verbose else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if json.loads(self._line()) != "ready":
            raise RuntimeError("the attackers did not start")

    def __enter__(self) -> Attackers:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def attack(self, cases: Iterable[tuple[str, Any]]) -> Iterator[Verdict]:
        """Try cases by kind and number; verdicts come in the order in which they end."""
        requests = list(cases)
        assert self._process.stdin is not None
        self._process.stdin.write("".join(json.dumps(request) + "\n" for request in requests))
        self._process.stdin.flush()
        for _ in requests:
            yield Verdict(*json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that forks the cases ended ({self._process.wait()})")
        return line
