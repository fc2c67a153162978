"""A child process may die, hang and fail; the parent says why."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.system import child
from lieq_edge.system.child import End, StoppedError


class Fragile(child.Child):
    name = "fragile"

    def __init__(self) -> None:
        super().__init__("fragile")

    def explain(self, end: End) -> str:
        return f"{end.cause} of {end.label}: {end.how}"

    def explain_memory(self, label: str) -> str:
        return f"no memory for {label}"


@pytest.fixture
def fragile() -> Iterator[Fragile]:
    started = Fragile()
    yield started
    started.kill()


def test_it_answers(fragile: Fragile) -> None:
    value = {"a": [1, 2.5, None, "\udcff é"]}
    assert fragile.call("answer", value, label="x", seconds=60.0) == value
    assert fragile.alive


def test_a_death_is_told_with_the_last_line(fragile: Fragile) -> None:
    with pytest.raises(InputError, match=r"^death of x: .*: file\.cpp:7: assertion$") as caught:
        fragile.call("die", "assertion", label="x", seconds=60.0)
    assert not isinstance(caught.value, StoppedError)
    assert not fragile.alive
    with pytest.raises(StoppedError, match="death of x"):
        fragile.call("answer", 1, label="y", seconds=60.0)


def test_a_slow_start_is_told_apart_from_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "START_SECONDS", 0.0)
    monkeypatch.setattr(child, "_START", "import time; time.sleep(600)")
    slow = Fragile()
    with pytest.raises(StoppedError, match=r"^fragile did not start within 0 s; .* try again\.$"):
        slow.call("answer", 1, label="x", seconds=60.0)
    assert not slow.alive


def test_a_death_at_a_full_memory_is_one_of_memory(fragile: Fragile) -> None:
    with pytest.raises(StoppedError, match=r"^memory of x"):
        fragile.call("die", "memory allocation of 160 bytes failed", label="x", seconds=60.0)


@pytest.mark.parametrize("limits", [{"seconds": 0.5}, {"seconds": 60.0, "computing": 0.5}])
def test_limits_end_what_computes(limits: dict[str, float], fragile: Fragile) -> None:
    fragile.call("answer", 1, label="x", seconds=60.0)
    start = time.monotonic()
    with pytest.raises(StoppedError, match=r"^time of x"):
        fragile.call("compute", label="x", **limits)
    assert time.monotonic() - start < 30


def test_waiting_is_not_computing(fragile: Fragile) -> None:
    fragile.call("answer", 1, label="x", seconds=60.0)
    start = time.monotonic()
    with pytest.raises(StoppedError, match=r"^time of x"):
        fragile.call("wait", label="x", seconds=2.0, computing=0.2)
    assert time.monotonic() - start > 1.5


def test_errors_arrive_as_what_they_are(fragile: Fragile, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(FileNotFoundError) as caught:
        fragile.call("fail", "OSError", missing, label="x", seconds=60.0)
    assert caught.value.filename == missing
    with pytest.raises(StoppedError, match="no memory for x"):
        fragile.call("fail", "MemoryError", "", label="x", seconds=60.0)
    with pytest.raises(RuntimeError, match="a mistake"):
        fragile.call("fail", "RuntimeError", "a mistake", label="x", seconds=60.0)
    assert fragile.call("answer", 1, label="x", seconds=60.0) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_all_are_ended_at_once() -> None:
    both = [Fragile(), Fragile()]
    both[0].call("answer", 1, label="x", seconds=60.0)
    child.kill_all()
    assert [one.alive for one in both] == [False, False]
