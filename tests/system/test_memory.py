"""What is known of memory, and when it is given back."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from lieq_edge.system import memory as resources
from lieq_edge.system.memory import WIDE, give_back_memory, peak_rss_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_resident_size_follows_what_is_held() -> None:
    before = resources._resident_bytes()
    held = np.ones(1 << 24)
    assert 0.9 * held.nbytes < resources._resident_bytes() - before < 1.5 * held.nbytes
    assert held.nbytes < peak_rss_bytes() < resources._memory_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(
    ("columns", "resident", "given"), [(64, 1, False), (64, 2, True), (WIDE, 1, True), (WIDE, 2, True)]
)
def test_a_small_part_of_the_memory_is_kept(
    monkeypatch: pytest.MonkeyPatch, columns: int, resident: int, given: bool
) -> None:
    trimmed = []

    class Libc:
        @staticmethod
        def malloc_trim(left: int) -> None:
            trimmed.append(left)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Libc)
    monkeypatch.setattr(resources, "_resident_bytes", lambda: resident)
    monkeypatch.setattr(resources, "_memory_bytes", lambda: 8)
    give_back_memory(columns)
    assert bool(trimmed) == given


@pytest.mark.parametrize(
    ("limit", "used", "free"), [(None, None, 1000), ("max", "7", 1000), ("500", "100", 400), ("9000", "0", 1000)]
)
def test_a_container_has_no_more_than_its_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str | None, used: str | None, free: int
) -> None:
    files = tmp_path / "max", tmp_path / "current"
    for file, text in zip(files, (limit, used), strict=True):
        if text is not None:
            file.write_text(text + "\n")
    monkeypatch.setattr(resources, "_LIMITS", ((tmp_path / "other", tmp_path / "one"), files))
    memory = type("Memory", (), {"available": 1000, "total": 2000})
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert resources.free_bytes() == free
    assert resources.is_little_memory(free // 8)
    assert not resources.is_little_memory(free // 8 + 1)
