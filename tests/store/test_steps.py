"""Steps that are done are not taken again, and what is not whole is not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lieq_edge.errors import InputError
from lieq_edge.store import Entry, FolderCache, Run, Steps
from lieq_edge.store import steps as module


def take(steps: Steps, count: int) -> None:
    for index in steps.remaining[:count]:
        steps.finish(index, Entry({"own": np.full(2, index)}), {"sum": np.full(3, index)}, {"at": index})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return FolderCache(tmp_path).run("work", {})


def test_they_go_on_behind_the_last_one(run: Run) -> None:
    first = Steps(run, [5, 3, 1])
    assert first.state is None
    take(first, 2)
    again = Steps(run, [5, 3, 1])
    assert again.remaining == first.remaining == [1]
    assert [again.is_done(index) for index in (5, 3, 1)] == [True, True, False]
    assert [(index, int(entry.arrays["own"][0])) for index, entry in again.results()] == [(5, 5), (3, 3)]
    assert again.state is not None
    assert again.state.arrays["sum"].tolist() == [3, 3, 3]
    assert again.state.record == {"done": 2, "record": {"at": 3}}


def test_a_large_state_of_quick_steps_is_not_kept_every_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module, "_SMALL", 0)
    monkeypatch.setattr(module, "_RATE", 24.0)  # the state has 24 bytes: once a second
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    steps = Steps(run, range(6))
    for clock[0] in (100.5, 101.0, 101.5, 101.9, 102.0, 102.5):
        take(steps, 1)
    again = Steps(run, range(6))
    assert again.remaining == [5]
    assert again.state is not None
    assert again.state.arrays["sum"].tolist() == [4, 4, 4]


@pytest.mark.parametrize("lost", ["step.5", "step.3", "state"])
def test_without_a_result_or_the_state_they_begin_anew(run: Run, lost: str) -> None:
    take(Steps(run, [5, 3, 1]), 2)
    run.drop(lost)
    again = Steps(run, [5, 3, 1])
    assert list(again.results()) == []
    assert again.state is None
    assert again.remaining == [5, 3, 1]


def test_behind_a_result_that_was_not_kept_nothing_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(run, range(4))
    take(steps, 1)
    with monkeypatch.context() as patch:
        patch.setattr(run, "save", lambda *_: False)
        take(steps, 1)
    take(steps, 1)
    assert steps.remaining == [3]
    assert Steps(run, range(4)).remaining == [1, 2, 3]


def test_a_run_that_keeps_nothing_takes_all(run: Run) -> None:
    steps = Steps(Run(None), range(3))
    take(steps, 2)
    assert steps.remaining == [2]
    assert steps.result(0) is None


def test_room_is_asked_for_before_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.reserve(1000)
    assert run.resumable
    with pytest.raises(InputError, match="GB are needed"):
        run.reserve(1 << 62)
    assert not run.resumable
    assert "too full" in capsys.readouterr().err
