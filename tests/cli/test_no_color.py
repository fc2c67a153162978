"""On a terminal ``NO_COLOR`` takes the colours out of everything that is printed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from records import make_diagnostics
from runner import started
from tiny import make_model

from lieq_edge.system.jsonio import save_json

pty = pytest.importorskip("pty")

# Select Graphic Rendition; bold and dim are no colours.
_CODES = re.compile(r"\x1b\[([0-9;]*)m")
_COLOURS = {*range(30, 39), *range(40, 49), *range(90, 98), *range(100, 108)}


def on_a_terminal(*arguments: object, **environment: str) -> tuple[str, set[int]]:
    """What a command prints on a terminal, and the colours in it."""
    outer, inner = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "120", **environment}
    words = [sys.executable, "-m", "lieq_edge", *map(str, arguments)]
    parts = []
    with started(words, stdin=inner, stdout=inner, stderr=inner, env=variables) as process:
        os.close(inner)
        while True:
            try:
                part = os.read(outer, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not part:
                break
            parts.append(part)
        assert process.wait(timeout=60) in (0, 2)
    os.close(outer)
    text = b"".join(parts).decode()
    numbers = {int(number) for code in _CODES.findall(text) for number in code.split(";") if number}
    return text, numbers & _COLOURS


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "saved.json"
    save_json(make_diagnostics([0.1, 0.4, 0.2]), path)
    return path


def test_help_has_colours_without_it() -> None:
    _, colours = on_a_terminal("--help")
    assert colours


@pytest.mark.parametrize(
    "words", ["--help", "export --help", "recipes list", "recipes show paper", "cache size", "bogus"]
)
def test_commands_have_none_with_it(words: str) -> None:
    text, colours = on_a_terminal(*words.split(), NO_COLOR="1")
    assert text.strip()
    assert colours == set()


def test_tables_have_none_with_it(saved: Path) -> None:
    text, colours = on_a_terminal("plan", saved, "--budget", "3", NO_COLOR="1")
    assert "Block weights" in text
    assert colours == set()


def test_progress_has_none_with_it(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", hidden=256, intermediate=256, blocks=2)
    words = ("plan", model, "--budget", "3", "--probe-tokens", 64, "--no-cache")
    text, colours = on_a_terminal(*words)
    assert "Measuring" in text
    assert colours
    text, colours = on_a_terminal(*words, NO_COLOR="1")
    assert "Measuring" in text
    assert colours == set()
