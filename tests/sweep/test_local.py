"""Sweeps on this machine, with processes that make no model: order, deaths, threads, and what can be reached."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from page_reports import report
from runner import run

import lieq_edge
from lieq_edge.errors import InputError
from lieq_edge.sweep import run as sweep_run
from lieq_edge.sweep import work
from lieq_edge.sweep.table import Record, SweepRow, finished_row, read_rows, sha256_of, write_record
from lieq_edge.system.threads import available_threads


class Pretender:
    """Stands for ``work.Exporter``: its files hold their own names.

    Attributes:
        history: beginnings and ends of methods, and files, of all processes.
        settings: settings of all files that were asked for.
        dies: says whether the process ends after a file of that name, which was made so many times.
    """

    history: list[str]
    settings: list[dict[str, Any]]
    dies: Callable[[str, int], bool]
    lock = threading.Lock()
    alive = True

    def __init__(self, taken: list[str]) -> None:
        assert taken == []

    def kill(self) -> None:
        pass

    def call(self, name: str, model: str, files: Any, *, label: str, seconds: float, on_event: Any) -> Any:
        with self.lock:
            self.settings.extend(file["settings"] for file in files)
        if name == "check":
            return {"model": f"content of {model}", "error": None, "file": None}
        self._note(f"begin {label}")
        on_event("step", ["Rounding", 1, 2, 3.0])
        rows = [self._make(Path(file["out"]), SweepRow(**file["row"]), on_event) for file in files]
        self._note(f"end {label}")
        return rows

    def _make(self, out: Path, row: SweepRow, on_event: Any) -> dict[str, Any]:
        done = finished_row(out, row.key)
        if done is None:
            out.write_text(out.name)
            size = out.stat().st_size
            done = replace(row, bytes=size, sha256=sha256_of(out), kld=1 / size, seconds=1.0, host="here")
            write_record(out, Record(done, report()))
            self._note(out.name)
        on_event("row", vars(done))
        if self.dies(out.name, self.history.count(f"death at {out.name}")):
            self._note(f"death at {out.name}")
            raise InputError("The process ended (signal 9, SIGKILL).")
        return dict(vars(done))

    def _note(self, line: str) -> None:
        with self.lock:
            self.history.append(line)


@pytest.fixture(autouse=True)
def pretender(monkeypatch: pytest.MonkeyPatch) -> type[Pretender]:
    class Fresh(Pretender):
        history: list[str] = []  # noqa: RUF012
        settings: list[dict[str, Any]] = []  # noqa: RUF012
        dies = staticmethod(lambda name, deaths: False)

    monkeypatch.setattr(work, "Exporter", Fresh)
    return Fresh


def test_a_process_that_dies_is_started_again_and_makes_the_rest(tmp_path: Path, pretender: Any) -> None:
    pretender.dies = staticmethod(lambda name, deaths: name.startswith("a-3") and not deaths)
    events: list[lieq_edge.SweepEvent] = []
    rows: list[SweepRow] = []
    done = lieq_edge.run_sweep(
        {"models": ["a"], "budgets": ["3", "4"]}, tmp_path / "out", on_row=rows.append, progress=events.append
    )
    assert done.failed == ()
    assert [line for line in pretender.history if line.endswith(".gguf")] == [
        "a-3-normal.gguf",
        "death at a-3-normal.gguf",
        "a-4-normal.gguf",
    ]
    assert [event.message for event in events if event.message] == [
        f"Note: a (normal) begins again on {work.platform.node()}: its worker died, or it failed there."
    ]
    assert list(read_rows(done.table)) == rows == list(done.rows)
    assert "2 of 2 files are ready." in done.pages[0].read_text(encoding="utf-8")
    assert (events[-1].step, events[-1].steps, events[-1].row) == (2, 2, rows[-1])


def test_a_process_that_dies_every_time_gives_rows_with_the_reason(tmp_path: Path, pretender: Any) -> None:
    pretender.dies = staticmethod(lambda name, deaths: name.startswith("a-3"))
    wanted = {"models": ["a", "b"], "budgets": ["3", "4"]}
    done = lieq_edge.run_sweep(wanted, tmp_path / "out")
    assert pretender.history.count("death at a-3-normal.gguf") == 3
    # What it had finished counts, and other models have nothing to do with it.
    assert [(row.model, row.budget) for row in done.failed] == [("a", "4")]
    assert "SIGKILL" in str(done.failed[0].error)
    pretender.dies = staticmethod(lambda name, deaths: False)
    again = lieq_edge.run_sweep(wanted, tmp_path / "out")
    assert again.failed == ()
    assert [row.error is None for row in read_rows(again.table)].count(False) == 1


def test_the_first_method_of_a_model_ends_before_the_others_begin(tmp_path: Path, pretender: Any) -> None:
    wanted = {"models": ["a", "b"], "budgets": ["3"], "metrics": ["first", "last", "random"]}
    done = lieq_edge.run_sweep(wanted, tmp_path / "out", workers=2)
    assert len(done.rows) == 6
    for model in ("a", "b"):
        order = [line for line in pretender.history if f" {model} (" in line]
        assert order[:2] == [f"begin {model} (first, normal)", f"end {model} (first, normal)"]
        assert len(order) == 6


def test_workers_share_the_cores_unless_the_user_says_otherwise(tmp_path: Path, pretender: Any) -> None:
    wanted = {"models": ["a"], "budgets": ["3"]}
    cores = available_threads()
    for number, (workers, threads, expected) in enumerate([(1, None, None), (2, None, max(1, cores // 2)), (2, 5, 5)]):
        pretender.settings.clear()
        values = wanted if threads is None else {**wanted, "threads": threads}
        lieq_edge.run_sweep(values, tmp_path / str(number), workers=workers)
        assert {settings.get("threads") for settings in pretender.settings} == {expected}


def test_a_stopped_sweep_goes_on_and_says_what_is_finished(tmp_path: Path, pretender: Any) -> None:
    wanted = {"models": ["a"], "budgets": ["3", "4", "5"]}

    def stop(row: SweepRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lieq_edge.run_sweep(wanted, tmp_path / "out", on_row=stop)
    rows: list[SweepRow] = []
    events: list[lieq_edge.SweepEvent] = []
    done = lieq_edge.run_sweep(wanted, tmp_path / "out", on_row=rows.append, progress=events.append)
    made = [line for line in pretender.history if line.endswith(".gguf")]
    assert set(made) == {"a-3-normal.gguf", "a-4-normal.gguf", "a-5-normal.gguf"}
    assert made.count("a-3-normal.gguf") == 1
    assert len(done.rows) == 3
    assert any("of 3 files are finished already" in event.message for event in events)
    assert {row.key for row in read_rows(done.table)} == {row.key for row in done.rows}


def test_nothing_can_be_reached_from_other_machines(tmp_path: Path) -> None:
    seen = []

    def look(row: SweepRow) -> None:
        seen.extend(psutil.Process().net_connections(kind="inet"))

    lieq_edge.run_sweep({"models": ["a"], "budgets": ["3"]}, tmp_path / "out", on_row=look)
    assert {place.laddr.ip for place in seen if place.status == psutil.CONN_LISTEN} <= {"127.0.0.1"}


def test_a_folder_has_one_sweep_at_a_time(tmp_path: Path) -> None:
    wanted = {"models": ["a"], "budgets": ["3"]}
    with sweep_run.held(tmp_path / "out"), pytest.raises(InputError, match="Another sweep is at work"):
        lieq_edge.run_sweep(wanted, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be a folder"):
        lieq_edge.run_sweep(wanted, tmp_path / "file")


def test_without_dask_there_is_one_sentence_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'lieq-edge\[cluster\]'"):
        lieq_edge.run_sweep({"models": ["a"], "budgets": ["3"]}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_all_rows_and_fails_for_a_missing_file(tmp_path: Path, pretender: Any) -> None:
    path = tmp_path / "sizes.yaml"
    path.write_text("models: [a]\nbudgets: [3, 4]\n")
    command = ("sweep", path, "--out", tmp_path / "out")
    shown = run(*command)
    assert shown.returncode == 0, shown.stderr
    assert "1 of 2: a, 3, normal: 0.0 MB" in shown.stderr
    assert f"Table: {tmp_path / 'out' / 'results.jsonl'}" in shown.stdout
    pretender.dies = staticmethod(lambda name, deaths: name.startswith("a-5"))
    path.write_text("models: [a]\nbudgets: [3, 5, 6]\n")
    failed = run(*command, "--json", "--quiet")
    assert failed.returncode == 1
    assert failed.stderr.startswith("Failed: 1 of 3 files could not be made")
    rows = json.loads(failed.stdout)["rows"]
    assert [(row["budget"], row["bytes"] is None) for row in rows] == [("3", False), ("5", False), ("6", True)]
