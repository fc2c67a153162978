"""The state of a sweep: what runs where, and the time left."""

from __future__ import annotations

from unittest import mock

from lieq_edge.sweep import progress
from lieq_edge.sweep.progress import Running, State
from lieq_edge.sweep.table import SweepRow

ROW = SweepRow("m", "Q2_K", "loss", "quick", "k", "m.gguf", bytes=10, seconds=100.0)


def test_files_tasks_and_time_are_counted() -> None:
    with mock.patch.object(progress.time, "monotonic") as clock:
        clock.return_value = 0.0
        state = State(6, workers=2)
        state.wait("a", 2)
        state.wait("b", 4)
        assert state.left() is None
        assert not state.begin("a", "m (loss, quick)", "node1")
        state.step("a", "Rounding", 3, 10, 60.0)
        clock.return_value = 20.0
        # Two files take 60 s, so four others take 120; two workers share the work.
        assert state.left() == (40 + 120) / 2
        event = state.event(task="a")
        assert (event.stage, event.done, event.total) == ("m (loss, quick) on node1: Rounding", 3, 10)
        assert event.running == (Running("m (loss, quick)", "node1", "Rounding", 3, 10),)
        state.add("a", ROW)
        assert state.left() == (40 + 4 * 100) / 2
        event = state.event(task="a", row=ROW)
        assert (event.step, event.steps, event.row) == (1, 6, ROW)
        state.add("a", ROW)
        # The task has no file left to make, whatever it last said.
        assert state.left() == 4 * 100 / 2


def test_the_slowest_task_bounds_the_time() -> None:
    state = State(2, workers=8)
    state.wait("a", 1)
    state.begin("a", "a", "node1")
    state.step("a", "x", 0, 1, 500.0)
    left = state.left()
    assert left is not None
    assert left > 400


def test_a_second_beginning_is_noticed() -> None:
    state = State(1, workers=1)
    state.wait("a", 1)
    assert not state.begin("a", "a", "node1")
    assert state.begin("a", "a", "node2")
    assert [running.host for running in state.running] == ["node2"]
    state.end("a")
    assert state.running == ()
