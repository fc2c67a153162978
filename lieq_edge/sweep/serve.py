"""The process that makes the files of a sweep, one beside each of Dask's workers.

A worker of Dask has a time limit between two signs of life, an environment of its own making, and no way to stop what
it has begun. A process apart has none of that; ``work`` is the other end.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..pipeline.report import ExportReport
from ..settings import Settings
from ..system.jsonio import to_json
from ..system.progress import Event, reporting_to
from ..system.worker import Worker
from .table import Record, SweepRow, finished_row, sha256_of, write_record

# Between two reports of progress, seconds.
_LEAST = 0.5


def main(_: None) -> None:
    """Serve until the parent ends."""
    Worker().serve({"check": check, "make": make})


def check(worker: Worker, model: str, files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Open a model and resolve the exports of it, without any work.

    Args:
        worker: the conversation.
        model: the model.
        files: ``out`` and ``settings`` of each file.

    Returns:
        ``model``: hash of its content; ``error``: the sentence of the first refusal, else None; ``file``: its number,
        None where the model itself is refused.
    """
    from ..pipeline.job import open_for, resolve

    number: int | None = None
    content = ""
    try:
        with reporting_to(Reporter(worker)):
            settings = [Settings(**file["settings"]) for file in files]
            opened = open_for(model, settings[0])
            content = opened.source.content_hash
            for number in range(len(files)):
                resolve(model, settings[number], out=files[number]["out"], opened=opened)
    except InputError as error:
        return {"model": content, "error": str(error), "file": number}
    return {"model": content, "error": None, "file": None}


def make(worker: Worker, model: str, files: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make the files of a model that share their method; a finished one is left alone.

    Args:
        worker: the conversation; every row is reported as soon as it is known.
        model: the model.
        files: ``out``, ``settings`` and ``row`` (the row without results) of each file.

    Returns:
        The rows. A file that cannot be made has a row with the reason, and does not stop the others.
    """
    rows = []

    def add(row: SweepRow) -> None:
        rows.append(to_json(row))
        worker.event("row", rows[-1])

    waiting = []
    for file in files:
        done = finished_row(Path(file["out"]), file["row"]["key"])
        if done is None:
            waiting.append(FileToMake(Path(file["out"]), Settings(**file["settings"]), SweepRow(**file["row"])))
        else:
            add(done)
    with reporting_to(Reporter(worker)):
        make_files(model, waiting, add)
    return rows


@dataclass(frozen=True)
class FileToMake:
    """A file to make, and its row without results."""

    out: Path
    settings: Settings
    row: SweepRow


def make_files(model: str, files: Sequence[FileToMake], add: Callable[[SweepRow], None]) -> None:
    """Make files of a model, which share their measurements, and give each row to ``add``."""
    from ..pipeline.export import export_models

    while files:
        written = 0

        def finish(report: ExportReport, files: Sequence[FileToMake] = files) -> None:
            nonlocal written
            file = files[written]
            scores = report.validation
            row = replace(
                file.row,
                metric=report.metric,
                bytes=report.file_bytes,
                sha256=sha256_of(file.out),
                bpw=report.file_bpw,
                ppl=None if scores is None else _finite(scores.ppl),
                kld=None if scores is None else _finite(scores.kld),
                kld_se=None if scores is None else _finite(scores.kld_se),
                seconds=round(sum(report.seconds.values()), 3),
                host=platform.node(),
            )
            write_record(file.out, Record(row, report))
            written += 1
            add(row)

        try:
            export_models(model, [(file.out, file.settings) for file in files], force=True, on_file=finish)
        except InputError as error:
            if written == 0 and len(files) > 1:  # it may be about any of them
                for file in files:
                    make_files(model, [file], add)
                return
            add(replace(files[written].row, host=platform.node(), error=str(error)))
            written += 1
        files = files[written:]


def _finite(value: float | None) -> float | None:
    """A number that JSON has."""
    return value if value is not None and math.isfinite(value) else None


class Reporter:
    """Passes progress on to the worker of Dask, steps not too often."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._last = float("-inf")
        self._stage = ""

    def __call__(self, event: Event) -> None:
        if event.message:
            self._worker.event("note", event.message)
            return
        now = time.monotonic()
        if event.stage == self._stage and now - self._last < _LEAST:
            return
        self._stage, self._last = event.stage, now
        self._worker.event("step", [event.stage, event.done, event.total, event.seconds_left])
