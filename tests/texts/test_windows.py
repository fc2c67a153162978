"""Texts, token windows and calibration text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_source import MemorySource, tiny_lm

from lieq_edge.errors import InputError
from lieq_edge.runtimes import TorchRuntime
from lieq_edge.texts import documentation as stdlib_text
from lieq_edge.texts.windows import builtin_text, calibration_windows, load_text, text_windows, windows


@given(st.integers(1, 500), st.integers(2, 40), st.integers(1, 9), st.booleans())
def test_windows_are_stretches_of_the_text_and_do_not_overlap(
    length: int, context: int, count: int, with_bos: bool
) -> None:
    body = context - with_bos
    ids = list(range(1000, 1000 + length))
    if length < body:
        with pytest.raises(InputError, match=r"fewer than one window of .* give a longer text.$"):
            windows(ids, context, count, 7 if with_bos else None)
        return
    cut = windows(ids, context, count, 7 if with_bos else None)
    assert cut.shape == (min(count, length // body), context)
    rows = cut.tolist()
    if with_bos:
        assert all(row[0] == 7 for row in rows)
        rows = [row[1:] for row in rows]
    assert all(row == list(range(row[0], row[0] + body)) for row in rows)
    assert len({i for row in rows for i in row}) == body * len(rows)


def test_windows_spread_over_the_text() -> None:
    assert windows(list(range(100)), 10, 3)[:, 0].tolist() == [0, 30, 60]
    assert len(windows(list(range(100)), 10)) == 10


def test_load_text_explains_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        load_text(tmp_path / "missing.txt")
    with pytest.raises(InputError, match="Cannot read"):
        load_text(tmp_path)
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 2\)"):
        load_text(tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match="is empty"):
        load_text(tmp_path / "empty.txt")
    (tmp_path / "good.txt").write_text("wörds", encoding="utf-8")
    assert load_text(tmp_path / "good.txt") == "wörds"


def test_builtin_texts_are_long_enough_and_share_no_paragraph() -> None:
    texts = {purpose: builtin_text(purpose)[0] for purpose in ("probe", "saliency", "validation")}
    texts["calibration"], _ = stdlib_text.stdlib_text("calibration", 150_000)
    assert all(len(text) > 30_000 for text in texts.values())
    assert len(texts["validation"]) > 80_000
    seen: set[str] = set()
    for text in texts.values():
        paragraphs = {part for part in text.split("\n\n") if len(part) > 200}
        assert not seen & paragraphs
        seen |= paragraphs


def test_documentation_depends_on_the_seed_alone() -> None:
    first, name = stdlib_text.stdlib_text("calibration", 5000, seed=1)
    assert (first, name) == stdlib_text.stdlib_text("calibration", 5000, seed=1)
    assert first != stdlib_text.stdlib_text("calibration", 5000, seed=2)[0]
    assert 5000 <= len(first) < 12_000
    assert "seed 1" in name


def test_source_code_is_of_modules_that_no_calibration_quotes() -> None:
    text, name = stdlib_text.stdlib_code(20_000)
    assert len(text) >= 20_000
    assert "source code" in name
    documentation, _ = stdlib_text.stdlib_text("calibration", 10**9)
    docstrings = {part for part in text.split('"""') if len(part) > 300}
    assert docstrings
    assert not [part for part in docstrings if part in documentation]


def test_documentation_needs_no_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems ship Python without ``pydoc_data``: docstrings remain, and unreadable modules are skipped."""
    for i in range(40):
        (tmp_path / f"m{i}.py").write_text(f'"""{f"Module {i} is good. " * 40}"""\n')
    (tmp_path / "broken.py").write_text("def (")
    monkeypatch.setattr(stdlib_text.sysconfig, "get_path", lambda _: str(tmp_path))
    text, _ = stdlib_text.stdlib_text("calibration", 10**9)
    assert 10 < text.count("\n\n") < 39


def test_calibration_from_each_origin(tmp_path: Path) -> None:
    source = MemorySource(tiny_lm())
    write = TorchRuntime(source).write_text
    file = tmp_path / "mine.txt"
    file.write_text("Some words of mine. " * 400)
    for origin in ("docs", "self", "mixed", str(file)):
        tokens, info = calibration_windows(source, origin, tokens=128, seed=3, write=write)
        again, same = calibration_windows(source, origin, tokens=128, seed=3, write=write)
        assert np.array_equal(tokens, again)
        assert info == same
        assert info.tokens == tokens.size == 128
        assert tokens.shape[1] == (64 if origin == "mixed" else 128)
        assert len(info.sha256) == 64
    assert info.name == "mine.txt"
    own, _ = calibration_windows(source, "self", tokens=128, seed=3, write=write)
    assert not np.array_equal(own, calibration_windows(source, "self", tokens=128, seed=4, write=write)[0])
    with pytest.raises(InputError, match="Cannot read"):
        calibration_windows(source, str(tmp_path / "none.txt"), tokens=128)


def test_windows_start_with_bos_if_the_model_expects_it() -> None:
    class Bare(MemorySource):
        @property
        def adds_bos(self) -> bool:
            return False

    text = "word " * 100
    assert text_windows(MemorySource(tiny_lm()), text, "t", tokens=64, context=32)[0][:, 0].tolist() == [1, 1]
    bare, info = text_windows(Bare(tiny_lm()), text, "t", tokens=64, context=32)
    assert 1 not in bare
    assert info.tokens == 64
