"""The table and the records: rows that survive a killed program, and files that count as finished."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from page_reports import report

from lieq_edge.errors import InputError
from lieq_edge.sweep.table import (
    Record,
    SweepRow,
    Table,
    finished_row,
    read_rows,
    record_path,
    sha256_of,
    write_record,
)
from lieq_edge.system.progress import Event, reporting_to

ROW = SweepRow("org/model", "Q2_K", "loss", "quick", "k1", "model-Q2_K-loss-quick.gguf")


def finished(folder: Path, content: bytes = b"weights", row: SweepRow = ROW) -> SweepRow:
    file = folder / row.file
    file.write_bytes(content)
    made = replace(row, bytes=len(content), sha256=sha256_of(file), kld=0.25, seconds=3.0, host="here")
    write_record(file, Record(made, report()))
    return made


def test_rows_are_lines_of_json_and_are_read_back(tmp_path: Path) -> None:
    table = Table(tmp_path / "results.jsonl")
    rows = [replace(ROW, kld=0.1, bytes=5), replace(ROW, key="k2", error="no such thing: ü\n")]
    for row in rows:
        table.add(row)
    assert list(read_rows(table.path)) == rows
    first = json.loads(table.path.read_text(encoding="utf-8").splitlines()[0])
    assert (first["model"], first["kld"], first["bytes"], first["ppl"]) == ("org/model", 0.1, 5, None)


def test_a_finished_file_has_one_row_also_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        table = Table(tmp_path / "results.jsonl")
        table.add(ROW)
        table.add(replace(ROW, key="k2", error="memory"))
    assert [row.key for row in read_rows(table.path)] == ["k1", "k2", "k2"]


def test_a_torn_last_line_is_removed_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Table(path).add(ROW)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    notes: list[Event] = []
    with reporting_to(notes.append):
        Table(path).add(replace(ROW, key="k2"))
    assert "unfinished" in notes[0].message
    assert [row.key for row in read_rows(path)] == ["k1", "k2"]


def test_a_line_that_is_not_a_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(InputError, match=r"line 1 is not a row"):
        Table(path)


def test_a_file_is_finished_if_key_size_and_hash_are_right(tmp_path: Path) -> None:
    row = finished(tmp_path)
    file = tmp_path / row.file
    assert finished_row(file, "k1") == row
    assert finished_row(file, "another") is None
    file.write_bytes(b"weightz")
    assert finished_row(file, "k1") is None
    file.unlink()
    assert finished_row(file, "k1") is None
    record_path(file).unlink()
    assert finished_row(file, "k1") is None
