"""The page of an export, as the command writes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import page_reports
import pytest

import lieq_edge
from lieq_edge.cli import export_command
from lieq_edge.page.view import make_view


def test_files_of_one_name_keep_their_speeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(lieq_edge, "answers_of", lambda *_: ())
    monkeypatch.setattr(lieq_edge, "write_page", lambda *_, **named: given.update(named))
    other = page_reports.preset()
    made = []
    for size in (80, 100):
        ours = replace(page_reports.preset("m.gguf"), file_bytes=size * 1_000_000, prefill=float(size))
        changes = {"out": f"/{size}/m.gguf", "file_bytes": size * 1_000_000, "compared": (ours, other)}
        made.append(page_reports.report(**changes))
    settings = lieq_edge.Settings(budget="80MB")
    export_command._write_page(tmp_path / "page.html", "m", made, settings, force=False)
    rows = make_view(made, given["compared"], (), "").rows
    assert [(row.name, row.prefill) for row in rows] == [
        ("m.gguf", 80.0),
        (other.name, other.prefill),
        ("m.gguf", 100.0),
    ]
