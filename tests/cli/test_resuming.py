"""What is said after Ctrl-C."""

from __future__ import annotations

import sys

import pytest

from lieq_edge.cli.resuming import last_words
from lieq_edge.system.schedule import Schedule, Step, following


def test_it_says_what_is_done_and_which_command_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lieq-edge", "export", "a b"])
    command = ":\n  lieq-edge export 'a b'"
    schedule = Schedule([Step(name, name, 1.0) for name in ("one", "two", "three")])
    with following(schedule):
        assert last_words("blocks") == f"No step is done yet. The same command starts again{command}"
        with schedule.step("one"):
            words = "No step is done yet. The same command starts again, with the finished blocks of the present step"
            assert last_words("blocks") == words + command
        assert last_words("blocks").startswith("1 of 3 steps is done, and what it found is stored. The same command")
        with schedule.step("two"):
            pass
        with schedule.step("three"):
            words = last_words("blocks")
    stored = "2 of 3 steps are done, and what they found is stored, with the finished blocks of the present step. "
    assert words == f"{stored}The same command goes on from there{command}"
