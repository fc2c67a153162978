"""Sweeps on two workers of Dask, in processes that die, and the same bytes as single exports write."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import dying
import pytest
from distributed import Client
from runner import assert_refused, run, started
from tiny import cached_model

import lieq_edge
from lieq_edge.errors import InputError
from lieq_edge.sweep import cluster, table, work
from lieq_edge.sweep import run as sweep_run
from lieq_edge.sweep.cluster import describe_difference
from lieq_edge.sweep.table import read_rows
from lieq_edge.system.progress import reporting_to

# Nothing is measured, so that a file takes a second.
QUICK = {"rounding": "nearest", "validation": False, "parity": False, "threads": 1}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a cluster of two processes, started as a user does, and killed at the end: they may hang by then."""
    folder = tmp_path_factory.mktemp("cluster")
    dask, address = Path(sys.executable).parent / "dask", folder / "scheduler.json"
    patient = {"DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10 minutes", "DISTRIBUTED__SCHEDULER__WORKER_TTL": "None"}
    options = {
        "env": {
            **os.environ,
            **{f"DASK_{name}": value for name, value in patient.items()},
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    common = ["--scheduler-file", address, "--host", "127.0.0.1", "--no-dashboard"]
    two = ["--nworkers", "2", "--nthreads", "1", "--memory-limit", "0", "--local-directory", folder]
    with (
        started([dask, "scheduler", "--port", "0", *common], **options),
        started([dask, "worker", *common, *two], **options),
    ):
        place = _address(address)
        with Client(place, set_as_default=False, timeout=120) as client:
            client.wait_for_workers(2, timeout=120)
        yield place


def _address(path: Path) -> str:
    """Where a scheduler is, once it has written that."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            return str(json.loads(path.read_text())["address"])
        time.sleep(0.05)
    raise AssertionError("the scheduler did not start")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep of four files."""
    models = [str(cached_model(hidden=256, intermediate=512, seed=seed)) for seed in (0, 1)]
    cache = tmp_path_factory.mktemp("cache")
    return {"models": models, "budgets": ["3.9", "4"], "metrics": ["first"], **QUICK, "cache_dir": str(cache)}


@pytest.fixture(scope="module")
def alone(wanted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], bytes]:
    """The bytes that single exports write, by model and budget."""
    out = tmp_path_factory.mktemp("alone") / "model.gguf"
    files = {}
    for model in wanted["models"]:
        for budget in wanted["budgets"]:
            settings = lieq_edge.Settings(**QUICK, budget=budget, metric="first", cache_dir=wanted["cache_dir"])
            lieq_edge.export_model(model, out, settings, force=True)
            files[model, budget] = out.read_bytes()
    return files


def assert_same(done: lieq_edge.SweepResult, alone: dict[tuple[str, str], bytes]) -> None:
    """The files are those of single exports."""
    made = {(row.model, row.budget): row for row in done.rows if row.error is None}
    assert {key: (done.folder / row.file).read_bytes() for key, row in made.items()} == alone
    assert all(table.sha256_of(done.folder / row.file) == row.sha256 for row in made.values())


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_worker_that_is_killed_costs_nothing_but_time(
    tmp_path: Path, scheduler: str, wanted: Any, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_run.work, "make", dying.make)
    events: list[lieq_edge.SweepEvent] = []
    three = {**wanted, "budgets": ["3.9", "4", "3"]}
    done = lieq_edge.run_sweep(three, tmp_path / "out", scheduler=scheduler, progress=events.append)
    assert (tmp_path / "out.died").exists()
    tries = (tmp_path / "out.tries").read_text().splitlines()
    assert sorted(map(tries.count, set(tries))) == [1, 2]
    # A block with two bits needs calibration, which only shows when the file is made; it stops no other file.
    assert [row.budget for row in done.failed] == ["3", "3"]
    assert all("calibration" in (row.error or "") for row in done.failed)
    assert_same(done, alone)
    assert sorted(read_rows(done.table), key=str) == sorted(done.rows, key=str)
    assert {page.stem for page in done.pages} == {Path(model).name for model in wanted["models"]}
    assert all("2 of 3 files are ready, 1 could not be made" in page.read_text() for page in done.pages)
    last = [event for event in events if event.row is not None][-1]
    assert (last.step, last.steps) == (6, 6)


def test_a_cluster_that_has_lost_all_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_run, "_QUIET", 0.0)
    client = mock.Mock(status="running")
    asked: list[float] = []

    def nthreads() -> dict[str, int]:
        asked.append(time.monotonic())
        if len(asked) < 2:
            return {"tcp://node1:1": 1}
        threading.Timer(1.0, submitted.add_done_callback.call_args.args[0], [submitted]).start()
        return {}

    client.nthreads = nthreads
    submitted = client.submit.return_value
    work_of = sweep_run._Run(mock.Mock(), cluster.Cluster(client, 1, True), None, None)
    work_of._submit(work.check, "a check", "a model", [])
    submitted.key = client.submit.call_args.kwargs["key"]
    notes: list[str] = []
    with reporting_to(lambda event: notes.append(event.message)):
        assert [key for key, _ in work_of._collect(mock.Mock(), {submitted.key})] == [submitted.key]
    assert len(asked) == 2
    assert [note for note in notes if "no workers any more" in note] == notes


def test_a_sweep_that_was_stopped_goes_on(tmp_path: Path, scheduler: str, wanted: Any, alone: Any) -> None:
    out = tmp_path / "out"

    def stop(row: lieq_edge.SweepRow) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lieq_edge.run_sweep(wanted, out, scheduler=scheduler, on_row=stop)
    (first,) = read_rows(out / table.NAME)
    written = (out / first.file).stat().st_mtime_ns
    # As a program leaves it that is killed while it writes a row.
    with (out / table.NAME).open("a") as file:
        file.write('{"model": "')
    done = lieq_edge.run_sweep(wanted, out, scheduler=scheduler)
    assert (out / first.file).stat().st_mtime_ns == written
    assert [row.key for row in read_rows(out / table.NAME)].count(first.key) == 1
    assert_same(done, alone)

    rows: list[lieq_edge.SweepRow] = []
    gone, changed = done.rows[0], done.rows[3]
    (out / gone.file).unlink()
    (out / changed.file).write_bytes(b"changed")
    again = lieq_edge.run_sweep(wanted, out, scheduler=scheduler, on_row=rows.append)
    assert {row.file for row in rows} == {gone.file, changed.file}
    assert_same(again, alone)


def test_what_a_model_cannot_meet_is_refused_before_any_work(tmp_path: Path, scheduler: str, wanted: Any) -> None:
    path, out = tmp_path / "sweep.yaml", tmp_path / "out"
    common = f"metrics: [first]\ncache_dir: {wanted['cache_dir']}\n"
    path.write_text(f"models: [{wanted['models'][0]}]\nbudgets:\n- Q4_K_M\n- 1kB\n{common}")
    assert_refused(run("sweep", path, "-o", out, "--scheduler", scheduler), "line 4 (budgets)", "1kB")
    path.write_text(f"models: [/no/such/model]\nbudgets: [3]\n{common}")
    refused = run("sweep", path, "-o", out, "--scheduler", scheduler)
    assert_refused(refused, "line 1 (models)", "/no/such/model does not exist")
    assert not list(out.glob("*.gguf"))


def test_another_version_on_a_worker_is_told(
    tmp_path: Path, scheduler: str, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as other:
        other.setattr(cluster, "__version__", "99.0")
        with pytest.raises(InputError, match=r"has lieq-edge .*, and here is 99\.0; install the same everywhere"):
            lieq_edge.run_sweep(wanted, tmp_path / "out", scheduler=scheduler)
    versions = {**cluster.versions(), "torch": "1.0"}
    monkeypatch.setattr(cluster, "versions", lambda: versions)
    events: list[lieq_edge.SweepEvent] = []
    one = {**wanted, "models": wanted["models"][:1], "budgets": ["4"]}
    lieq_edge.run_sweep(one, tmp_path / "out", scheduler=scheduler, progress=events.append)
    assert any("(here 1.0); its files may have other bytes" in event.message for event in events)


def test_differences_of_versions_are_named() -> None:
    own = {"code": "a", "numpy": "2.0", "torch": "2.10"}
    assert describe_difference(own, own) == ""
    assert describe_difference(own, {"code": "b", "numpy": "2.0", "torch": ""}) == (
        "other code of lieq-edge of the same version, torch missing (here 2.10)"
    )


def test_workers_that_do_not_see_the_folder_are_refused(tmp_path: Path) -> None:
    facts = work.facts("no-such-file", str(tmp_path), None, mock.Mock(nanny=None))
    with pytest.raises(InputError, match=r"does not see .*; choose a folder by --out"):
        cluster.check_facts({"tcp://node1:1": facts}, tmp_path)


def test_without_a_scheduler_or_with_two_ways_there_is_one_sentence(tmp_path: Path) -> None:
    wanted = {"models": ["demo"], "budgets": ["4"]}
    with pytest.raises(InputError, match="leave one out"):
        lieq_edge.run_sweep(wanted, tmp_path / "out", scheduler="tcp://127.0.0.1:1", workers=2)
    with pytest.raises(InputError, match="There is no scheduler of Dask at nowhere"):
        lieq_edge.run_sweep(wanted, tmp_path / "out", scheduler="nowhere")


def test_methods_of_a_model_are_one_unit_where_the_cache_is_not_shared() -> None:
    values = {"models": ["a", "b"], "budgets": ["3", "4"], "metrics": ["first", "last"]}
    plans = [
        sweep_run.Planned(entry, Path("f"), table.SweepRow(entry.model, entry.budget, None, "", "", ""), Path("p"))
        for entry in lieq_edge.make_sweep(values).entries()
    ]
    apart = sweep_run.units_of(plans, shares_cache=False)
    assert [(unit.place, len(unit.methods), unit.after) for unit in apart] == [("a", 2, None), ("b", 2, None)]
    units = sweep_run.units_of(plans, shares_cache=True)
    assert [(unit.place, unit.methods[0][0].entry.metric) for unit in units] == [
        ("a", "first"),
        ("a", "last"),
        ("b", "first"),
        ("b", "last"),
    ]
    assert [unit.after for unit in units] == [None, units[0], None, units[2]]
    assert all(len(unit.plans) == 2 for unit in units)
