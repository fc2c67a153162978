"""Names of others reach the terminal as text."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from lieq_edge.system.terminal import clean, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[/x] [bold]name[/bold]", "[/x] [bold]name[/bold]"),
        ("red\x1b[31m\x07\x9b0m", "red [31m  0m"),
        ("two\nlines\r\ttab", "two lines  tab"),
        ("grüße 日本 ☃", "grüße 日本 ☃"),
        (os.fsdecode(b"caf\xe9.gguf"), "caf\ufffd.gguf"),
        ("\ud800x\u202ey", "\ufffdx y"),
    ],
)
def test_what_is_printed_is_one_line_of_text(text: str, shown: str) -> None:
    stream = io.StringIO()
    say(text, stream)
    assert stream.getvalue() == shown + "\n"
    assert clean(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_strict_stream_takes_every_name(encoding: str) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="strict")
    say("model 日本 \udcff", stream)
    assert buffer.getvalue().decode(encoding).startswith("model ")


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    say("x")
    assert capsys.readouterr() == ("", "x\n")


class Failing(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


def test_a_full_disk_behind_stderr_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Failing(errno.ENOSPC))
    say("a note")
    with pytest.raises(OSError, match="No space left"):
        say("a result", Failing(errno.ENOSPC))


def test_a_reader_of_stderr_that_went_away_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Failing(errno.EPIPE))
    with pytest.raises(BrokenPipeError):
        say("a note")
