"""The table of a sweep: one JSON line for each file, in the order in which they are ready."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..errors import InputError
from ..pipeline.report import ExportReport
from ..system.jsonio import load_json, save_json, to_json
from ..system.progress import log

NAME = "results.jsonl"
_PIECE = 1 << 22


@dataclass(frozen=True)
class SweepRow:
    """A file of a sweep, or the reason why there is none.

    Attributes:
        model: the model, as the user wrote it.
        budget: budget of the file.
        metric: metric that its types were allocated by; of a file that was not made, the one that was asked for.
        effort: effort.
        key: SHA-256 (hex) over the model's content, the settings, and the versions of everything that decides numbers.
        file: name of the file in the sweep's folder.
        bytes: size of the file; this and all below but ``host`` and ``error`` are None where there is no file.
        sha256: SHA-256 (hex) of the file.
        bpw: physical bits a weight, over all weights.
        ppl: perplexity; None where the file was not scored.
        kld: mean KL divergence from the original, nats a token; None where it was not compared.
        kld_se: its standard error.
        seconds: time that the file took, measurements that it was the first to need included.
        host: name of the machine that made it.
        error: sentence that says why there is no file.
    """

    model: str
    budget: str
    metric: str | None
    effort: str
    key: str
    file: str
    bytes: int | None = None
    sha256: str | None = None
    bpw: float | None = None
    ppl: float | None = None
    kld: float | None = None
    kld_se: float | None = None
    seconds: float | None = None
    host: str | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """The file in a few words."""
        return ", ".join(part for part in (self.model, self.budget, self.metric, self.effort) if part)


@dataclass(frozen=True)
class Record:
    """What lies beside a finished file: its row, and the report of its export."""

    row: SweepRow
    report: ExportReport


def record_path(file: Path) -> Path:
    """The record of a file."""
    return file.with_suffix(".json")


def write_record(file: Path, record: Record) -> None:
    """Write the record of a file, which says that the file is finished."""
    save_json(record, record_path(file))


def read_record(file: Path) -> Record | None:
    """The record of a file; None where there is none.

    Raises:
        InputError: what lies there is not a record.
    """
    path = record_path(file)
    return load_json(Record, path, "record of a finished file") if os.path.lexists(path) else None


def finished_row(file: Path, key: str) -> SweepRow | None:
    """The row of a file that is finished as ``key`` asks, and unchanged since; None for any other.

    Raises:
        InputError: what lies in the place of its record is none.
    """
    record = read_record(file)
    if record is None or record.row.key != key or not file.is_file():
        return None
    row = record.row
    whole = file.stat().st_size == row.bytes and sha256_of(file) == row.sha256
    return row if whole else None


def sha256_of(file: Path, advance: Callable[[], None] = lambda: None) -> str:
    """SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            advance()
    return digest.hexdigest()


class Table:
    """The rows in a file. One process at a time writes to it."""

    def __init__(self, path: Path) -> None:
        """Open the table, which is made when it is missing.

        Args:
            path: the file. A line at its end that a killed program left unfinished is removed.

        Raises:
            InputError: a line is not a row.
            OSError: the file cannot be read or written.
        """
        self.path = path
        _remove_torn(path)
        self._keys = {row.key for row in read_rows(path) if row.error is None} if path.exists() else set()

    def add(self, row: SweepRow) -> None:
        """Append a row and wait until it is on the disk; one of a finished file that is there already is left out.

        Raises:
            OSError: the row cannot be written.
        """
        if row.error is None:
            if row.key in self._keys:
                return
            self._keys.add(row.key)
        with self.path.open("ab") as file:
            file.write(json.dumps(to_json(row), ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            file.flush()
            os.fsync(file.fileno())


def read_rows(path: Path) -> Iterator[SweepRow]:
    """The rows of a table. Of a file with several rows the last one counts.

    Raises:
        InputError: a line is not a row.
    """
    adapter = TypeAdapter(SweepRow)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield adapter.validate_json(line)
            except ValidationError:
                raise InputError(
                    f"{path}, line {number} is not a row of a sweep; move the file away, and the sweep writes it anew."
                ) from None


def _remove_torn(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            log(f"Note: the last line of {path} is unfinished; it is removed.")
            file.truncate(whole)
