"""What is known of memory, and when it is given back."""

from __future__ import annotations

import ctypes
import errno
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lieq_edge.system import memory as resources
from lieq_edge.system.memory import WIDE, give_back_memory, is_memory_error, peak_rss_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_resident_size_follows_what_is_held() -> None:
    # What earlier tests have left would go back meanwhile.
    gc.collect()
    give_back_memory()
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


def test_what_waits_in_memory_is_little_on_a_large_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_bytes", lambda: 1 << 40)
    assert resources.is_little_memory(1 << 29)
    assert not resources.is_little_memory((1 << 29) + 1)


def _of_numpy() -> None:
    np.empty(1 << 60, np.uint8)


def _of_torch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def _of_the_system() -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def _of_rust() -> None:
    raise ValueError("Cannot allocate memory (os error 12)")


def _of_cpp() -> None:
    raise RuntimeError("std::bad_alloc")


def _behind_another() -> None:
    try:
        _of_torch()
    except RuntimeError as error:
        raise TypeError("no tensor") from error


@pytest.mark.parametrize("fail", [_of_numpy, _of_torch, _of_the_system, _of_rust, _of_cpp, _behind_another])
def test_every_library_says_in_its_own_way_that_the_memory_is_full(fail: Callable[[], None]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        fail()
    assert is_memory_error(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not fit"), OSError(errno.ENOSPC, "No space left on device"), ValueError(), None]
)
def test_other_errors_do_not(error: Exception | None) -> None:
    assert not is_memory_error(error)


def test_an_error_may_be_its_own_cause() -> None:
    error = ValueError("no number")
    error.__cause__ = error
    assert not is_memory_error(error)
