"""The commands and the Python of docs/compare.md work as they stand, with a tiny model in the place of MODEL."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from runner import run
from tiny import cached_model, sample_text

from lieq_edge.presets.make import make_preset
from lieq_edge.sources import open_source

PAGE = (Path(__file__).parents[1] / "docs" / "compare.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    lieq-edge (.*)$", PAGE, re.MULTILINE)
WIDE = {"hidden": 256, "intermediate": 512}
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the page names."""
    source = open_source(str(tiny_gguf("llama")))
    for name, preset in {"a": "Q8_0", "b": "Q4_0", "c": "Q5_0", "model": "Q4_1"}.items():
        make_preset(source, preset, tmp_path / f"{name}.gguf", None, threads=1)
    (tmp_path / "chats.txt").write_text(sample_text(4000), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_commands_and_snippets() -> None:
    assert len(COMMANDS) == 5
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, folder: Path) -> None:
    exports = command.startswith("export")
    model = cached_model("llama", **WIDE) if exports else cached_model("llama")
    command = command.replace("-b 90MB", "-b 4.6bpw --calibration chats.txt --calibration-tokens 1024 --force")
    words = [str(model) if word == "MODEL" else word for word in shlex.split(command)]
    done = run(*words, "--context", "64", "--chunks", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if exports:
        names = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
        named = re.findall(r"--compare (Q\w+)", command)
        assert names == ["model.gguf", *named] if named else len(names) == 2


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["presets", "size"])
def test_a_snippet_runs(snippet: str, folder: Path) -> None:
    (folder / "model.gguf").unlink()
    model = cached_model("llama", **WIDE)
    text = folder / "chats.txt"
    texts = f"calibration={str(text)!r}, calibration_tokens=1024, text={str(text)!r}"
    small = f'budget="4.6bpw", {texts}, context=64, threads=1'
    snippet = snippet.replace('"MODEL"', repr(str(model))).replace('budget="90MB"', small)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(snippet, "docs/compare.md", "exec"), {"__name__": "__main__"})
    printed = out.getvalue().strip()
    assert printed.isdigit() or "Q3_K_M" in printed
