"""Nothing is printed unless asked, and whoever asks receives every step."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from lieq_edge.system import progress
from lieq_edge.system.progress import Callback, Event, Terminal, is_quiet, log, receive_with, set_quiet, stage


@pytest.fixture(autouse=True)
def _as_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_default", progress.Silent())


def work() -> None:
    log("Note: begins")
    with stage("Measuring", 2) as advance:
        advance()
        log("Note: [b]within[/x]\x1b[31m")
        advance()


def test_a_library_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    work()
    assert is_quiet()
    assert capsys.readouterr() == ("", "")


def test_a_callback_receives_every_step() -> None:
    events: list[Event] = []
    with receive_with(Callback(events.append)):
        assert is_quiet()
        work()
    work()
    assert events == [
        Event(message="Note: begins"),
        Event("Measuring", 0, 2),
        Event("Measuring", 1, 2),
        Event("Measuring", 1, 2, "Note: [b]within[/x]\x1b[31m"),
        Event("Measuring", 2, 2),
    ]


def test_stages_within_stages_are_told_apart() -> None:
    events: list[Event] = []
    with receive_with(Callback(events.append)), stage("Outer", 1) as advance:
        with stage("Inner", 1):
            log("in")
        log("out")
        advance()
    assert [(event.stage, event.done, event.message) for event in events] == [
        ("Outer", 0, ""),
        ("Inner", 0, ""),
        ("Inner", 0, "in"),
        ("Outer", 0, "out"),
        ("Outer", 1, ""),
    ]


def test_an_error_of_a_callback_ends_the_work() -> None:
    def refuse(event: Event) -> None:
        if event.done:
            raise ValueError("enough")

    with receive_with(Callback(refuse)), pytest.raises(ValueError, match="enough"):
        work()


def test_the_command_line_sees_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(False)
    assert not is_quiet()
    work()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Note: begins", "Note: [b]within[/x] [31m"]
    assert lines[2].startswith("Measuring: done in ")
    set_quiet(True)
    work()
    assert is_quiet()
    assert capsys.readouterr().err == ""


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_bars_whose_titles_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = _Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with receive_with(Terminal()), stage("Reading [b]model[/x]", 2) as advance:
        advance()
        log("A note [/x]")
        advance()
    assert "[b]model[/x]" in screen.getvalue()
    assert "2/2" in screen.getvalue()
    assert "A note [/x]" in screen.getvalue()


def test_a_closed_stderr_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with receive_with(Terminal()):
        work()


def test_other_threads_keep_the_receiver_of_the_process() -> None:
    events: list[Event] = []
    with receive_with(Callback(events.append)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert events == []
