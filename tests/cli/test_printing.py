"""What is printed is text: no markup, no control characters, nothing that the stream cannot encode."""

from __future__ import annotations

import io

import pytest

from lieq_edge.cli.printing import Printer

ODD = "[b]x[/x] \x1b[2J\udcff:smile:"


def test_lines_and_tables_show_names_as_they_are() -> None:
    stream = io.StringIO()
    printer = Printer(stream, width=100)
    printer.line(ODD)
    printer.table(ODD, [(ODD, True)], [[ODD]])
    shown = stream.getvalue()
    assert shown.count("[b]x[/x]  [2J\ufffd:smile:") == 4
    assert "\x1b" not in shown


def test_a_stream_without_unicode_is_printed_to() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Printer(stream).line("naïve 日本")
    stream.flush()
    assert stream.buffer.getvalue() == b"na?ve ??\n"  # type: ignore[attr-defined]


def test_a_closed_stdout_is_no_reason_for_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    Printer().line("x")
