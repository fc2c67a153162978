"""A worker process of Dask that dies once, in the middle of its work: between two files of a model."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from lieq_edge.sweep import work


def make(topic: str, label: str, model: str, methods: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """``work.make``; the first process that has made a file kills itself before the next one."""
    own = work.Exporter.call
    folder = Path(methods[0][0]["out"]).parent
    note = folder.with_suffix(".died")
    with folder.with_suffix(".tries").open("a") as tries:
        tries.write(f"{label}\n")

    def call(self: work.Exporter, *arguments: Any, on_event: Any, **named: Any) -> Any:
        def hear(kind: str, value: Any) -> None:
            on_event(kind, value)
            if kind == "row" and _is_first(note):
                os.kill(os.getpid(), signal.SIGKILL)

        return own(self, *arguments, on_event=hear, **named)

    with mock.patch.object(work.Exporter, "call", call):
        return work.make(topic, label, model, methods)


def _is_first(note: Path) -> bool:
    try:
        note.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
