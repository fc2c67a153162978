"""What is known of memory, and when it is given back."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

from lieq_edge import resources
from lieq_edge.resources import WIDE, give_back_memory, peak_rss_bytes


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
