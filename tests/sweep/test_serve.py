"""The process that makes files: rows of what was made, and of what cannot be made."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from page_reports import SCORES, report

from lieq_edge.errors import InputError
from lieq_edge.pipeline import export
from lieq_edge.sweep import serve
from lieq_edge.sweep.table import SweepRow, read_record, sha256_of
from lieq_edge.system.progress import Event, log


class Conversation:
    """Stands for ``system.worker.Worker``."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def event(self, kind: str, value: Any) -> None:
        self.events.append((kind, value))


def asked(folder: Path, *budgets: str) -> list[dict[str, Any]]:
    return [
        {
            "out": str(folder / f"{budget}.gguf"),
            "settings": {"budget": budget},
            "row": asdict(SweepRow("m", budget, None, "normal", f"key {budget}", f"{budget}.gguf")),
        }
        for budget in budgets
    ]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Budgets of each call of ``export_models``, which cannot make 4 bits, and refuses 6 bits before any work."""
    calls: list[list[str]] = []

    def export_models(model: str, files: Any, *, force: bool, on_file: Any) -> None:
        assert force
        calls.append([settings.budget for _, settings in files])
        if any(settings.budget == "6" for _, settings in files):
            raise InputError("6 is refused")
        for out, settings in files:
            log(f"note about {settings.budget}")
            if settings.budget == "4":
                raise InputError("4 cannot be made")
            out.write_text(settings.budget)
            on_file(report(out=str(out), budget=settings.budget, file_bytes=1, seconds={"open": 1.0, "write": 2.5}))

    monkeypatch.setattr(export, "export_models", export_models)
    return calls


def test_a_file_that_cannot_be_made_stops_no_other(tmp_path: Path, calls: list[list[str]]) -> None:
    talk = Conversation()
    rows = serve.make(talk, "m", asked(tmp_path, "3", "4", "5"))  # type: ignore[arg-type]
    assert calls == [["3", "4", "5"], ["5"]]
    assert [(row["budget"], row["error"]) for row in rows] == [("3", None), ("4", "4 cannot be made"), ("5", None)]
    assert [value for kind, value in talk.events if kind == "row"] == rows
    first = rows[0]
    assert (first["bytes"], first["seconds"], first["kld"], first["ppl"]) == (1, 3.5, SCORES.kld, SCORES.ppl)
    assert first["sha256"] == sha256_of(tmp_path / "3.gguf")
    record = read_record(tmp_path / "3.gguf")
    assert record is not None
    assert asdict(record.row) == first
    assert record.report.budget == "3"
    assert read_record(tmp_path / "4.gguf") is None
    assert ("note", "note about 5") in talk.events


def test_an_error_before_any_work_is_found_by_one_file_at_a_time(tmp_path: Path, calls: list[list[str]]) -> None:
    rows = serve.make(Conversation(), "m", asked(tmp_path, "3", "6"))  # type: ignore[arg-type]
    assert calls == [["3", "6"], ["3"], ["6"]]
    assert [row["error"] for row in rows] == [None, "6 is refused"]


def test_a_finished_file_is_left_alone(tmp_path: Path, calls: list[list[str]]) -> None:
    files = asked(tmp_path, "3", "5")
    made = serve.make(Conversation(), "m", files)  # type: ignore[arg-type]
    (tmp_path / "5.gguf").write_text("changed")
    assert serve.make(Conversation(), "m", files) == made  # type: ignore[arg-type]
    assert calls == [["3", "5"], ["5"]]


def test_a_check_says_which_file_is_refused() -> None:
    def resolve(model: str, settings: Any, *, out: str, opened: Any) -> None:
        if settings.budget == "4":
            raise InputError("too small")

    opened = mock.Mock()
    opened.source.content_hash = "abc"
    files = [{"out": "a.gguf", "settings": {"budget": "3"}}, {"out": "b.gguf", "settings": {"budget": "4"}}]
    with (
        mock.patch("lieq_edge.pipeline.job.resolve", resolve),
        mock.patch("lieq_edge.pipeline.job.open_for", return_value=opened),
    ):
        assert serve.check(Conversation(), "m", files) == {  # type: ignore[arg-type]
            "model": "abc",
            "error": "too small",
            "file": 1,
        }
        assert serve.check(Conversation(), "m", files[:1])["error"] is None  # type: ignore[arg-type]
    with mock.patch("lieq_edge.pipeline.job.open_for", side_effect=InputError("m does not exist")):
        assert serve.check(Conversation(), "m", files)["file"] is None  # type: ignore[arg-type]


def test_steps_are_reported_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    talk, clock = Conversation(), [0.0]
    monkeypatch.setattr(serve.time, "monotonic", lambda: clock[0])
    progress = serve.Reporter(talk)  # type: ignore[arg-type]
    event = Event("Rounding", 0, 30, seconds_left=5.0)
    for second in (0.0, 0.1, 0.2, 0.7):
        clock[0] = second
        progress(replace(event, done=round(10 * second)))
    progress(Event("Scoring", 0, 2))
    assert [value for _, value in talk.events] == [
        ["Rounding", 0, 30, 5.0],
        ["Rounding", 7, 30, 5.0],
        ["Scoring", 0, 2, None],
    ]
