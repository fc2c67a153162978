"""``bench`` as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from runner import assert_refused, run

WORDS = ("--prompt", "24", "--generate", "4", "--repeats", "1", "--threads", "1")


def test_json_has_everything(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf()
    done = run("bench", path, *WORDS, "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads(done.stdout)
    assert measured.pop("file") == str(path)
    assert measured.pop("file_bytes") == path.stat().st_size
    assert (measured.pop("threads"), measured.pop("prompt"), measured.pop("generated")) == (1, 24, 4)
    assert set(measured) == {"prefill", "decode", "load_seconds", "peak_bytes"}
    assert all(value > 0 for value in measured.values())


def test_the_table_is_for_people(tiny_gguf: Callable[..., Path]) -> None:
    done = run("bench", tiny_gguf(), *WORDS)
    assert done.returncode == 0, done.stderr
    for words in ("prompt of 24 tokens", "answer of 4 tokens", "time to load", "largest memory", "1 thread"):
        assert words in done.stdout
    assert done.stdout.count("tokens/s") == 2
    assert "Measuring the speed" in done.stderr


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    assert_refused(run("bench", tmp_path / "none.gguf"), "none.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert_refused(run("bench", tmp_path / "x.gguf"), "x.gguf")
    assert_refused(run("bench", tmp_path / "x.gguf", "--repeats", "0"), "repeats")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--no-cache",), "--no-cache is for --types only; leave it out"),
        (("--force", "--cache-dir", "c"), "--cache-dir and --force are for --types only; leave them out"),
        (("--out", "o.json", "--name", "mine"), "--out and --name are for --types only; leave them out"),
    ],
)
def test_flags_of_the_machine_are_refused_with_a_file(flags: tuple[str, ...], words: str) -> None:
    assert_refused(run("bench", "x.gguf", *flags), words)
