"""A cache outlives other words in the code and not other work of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lieq_edge.store import code
from lieq_edge.store.code import code_digest, source_digest

SOURCE = '''"""Doubles."""

SCALE = 2.0
"""What it is multiplied with."""


def double(value: float) -> float:
    """Twice the value."""
    return value * SCALE  # in floating point


class Doubler:
    """Has a method."""

    def run(self, values: list[float]) -> list[float]:
        """All of them."""
        return [double(value) for value in values if value != "text"]
'''


def digest(folder: Path, source: str, name: str = "part/module.py") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source, encoding="utf-8")
    code_digest.cache_clear()
    source_digest.cache_clear()
    return code_digest(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Twice the value.", "The value, doubled."),
        ('    """All of them."""\n', ""),
        ("What it is multiplied with", "Factor"),
        ("  # in floating point", "\n    # Nothing follows."),
        ("value * SCALE", "(value\n            * SCALE)"),
        ('!= "text"', "!= 'text'"),
        ("\n\n\n", "\n\n\n\n"),
    ],
)
def test_words_and_formatting_do_not_count(tmp_path: Path, old: str, new: str) -> None:
    assert old in SOURCE
    before = digest(tmp_path, SOURCE)
    first = source_digest(tmp_path)
    assert digest(tmp_path, SOURCE.replace(old, new)) == before
    assert source_digest(tmp_path) != first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value * SCALE", "value + SCALE"),
        ("value * SCALE", "SCALE * value"),
        ("2.0", "2.5"),
        ("2.0", "2"),
        ('!= "text"', '!= "texts"'),
        ("    return value", "    value += 1\n    return value"),
        ("value: float", "value: int"),
    ],
)
def test_what_the_code_does_counts(tmp_path: Path, old: str, new: str) -> None:
    assert old in SOURCE
    assert digest(tmp_path, SOURCE) != digest(tmp_path, SOURCE.replace(old, new))


def test_names_of_files_count_and_the_command_line_does_not(tmp_path: Path) -> None:
    first = digest(tmp_path, SOURCE)
    assert digest(tmp_path, SOURCE, "cli/program.py") == first
    assert digest(tmp_path, SOURCE, "part/other.py") != first


def test_the_digest_of_the_source_is_quick() -> None:
    """It is what every start pays; the other digest is stored by it."""
    source_digest.cache_clear()
    start = time.process_time()
    source_digest()
    assert time.process_time() - start < 0.3


def test_the_digest_is_stored_by_its_source_and_never_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lieq_edge.store import Entry, FolderCache
    from lieq_edge.store import cache as cache_module

    computed: list[str] = []

    def compute() -> str:
        computed.append(f"{len(computed)}" * 64)
        return computed[-1]

    monkeypatch.setattr(cache_module, "code_digest", compute)
    monkeypatch.setattr(cache_module, "source_digest", lambda: "a" * 64)
    FolderCache(tmp_path).put("kind", {}, Entry())
    assert FolderCache(tmp_path).get("kind", {}) is not None
    assert computed == ["0" * 64]
    monkeypatch.setattr(cache_module, "source_digest", lambda: "b" * 64)
    assert FolderCache(tmp_path).get("kind", {}) is None
    assert len(computed) == 2
    assert FolderCache(tmp_path)._code() == "1" * 64
    (tmp_path / "code.safetensors").write_bytes(b"damaged")
    assert FolderCache(tmp_path)._code() == "2" * 64
    assert FolderCache(tmp_path)._code() == "2" * 64
    assert len(computed) == 3


def test_the_whole_package_is_read_but_for_the_command_line() -> None:
    names = {name for name, _ in code._sources(code._PACKAGE)}
    assert {"store/code.py", "gguf/container.py", "errors.py"} <= names
    assert not [name for name in names if name.startswith("cli/")]
