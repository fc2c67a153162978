"""Unfinished work: it resumes, belongs to one process, and its folder is removed when it is done."""

from __future__ import annotations

import errno
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from lieq_edge.store import FolderCache
from lieq_edge.store import run as run_module
from lieq_edge.system.lock import FileLock

STATE = {"a": np.arange(5)}


def test_work_that_was_stopped_goes_on(tmp_path: Path) -> None:
    def start() -> None:
        with FolderCache(tmp_path).run("work", {"x": 1}) as run:
            run.save("step", STATE, {"number": 1})
            run.save("step", STATE, {"number": 2})
            run.save("other", STATE)
            run.drop("other")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start()
    [stored] = FolderCache(tmp_path).store.contents()
    assert stored.unfinished
    with FolderCache(tmp_path).run("work", {"x": 2}) as another:
        assert another.load("step") is None
    with FolderCache(tmp_path).run("work", {"x": 1}) as run:
        loaded = run.load("step")
        assert loaded is not None
        assert (loaded.record, loaded.arrays["a"].tolist()) == ({"number": 2}, list(range(5)))
        assert run.has("step")
        assert run.load("other") is None
        assert not run.has("other")
    assert list((tmp_path / "runs").iterdir()) == []


def test_work_that_kept_nothing_leaves_nothing(tmp_path: Path) -> None:
    def start() -> None:
        with FolderCache(tmp_path).run("work", {}):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        start()
    assert list((tmp_path / "runs").iterdir()) == []


def test_another_at_the_same_work_keeps_nothing_of_it(tmp_path: Path) -> None:
    with FolderCache(tmp_path).run("work", {}) as first:
        first.save("step", STATE)
        with FolderCache(tmp_path).run("work", {}) as second:
            assert not second.resumable
            assert not second.save("step", STATE)
            assert second.load("step") is None
            second.spill("inputs", STATE)
            loaded = second.fetch("inputs")
            assert loaded is not None
            assert loaded.arrays["a"].tolist() == list(range(5))
            second.drop("inputs")
            assert second.fetch("inputs") is None
        assert first.load("step") is not None
        # Room is not made at the cost of work that goes on.
        FolderCache(tmp_path, limit=1).put("kind", {}, first.load("step"))  # type: ignore[arg-type]
        assert first.load("step") is not None


def test_work_that_nobody_goes_on_with_is_evicted(tmp_path: Path) -> None:
    run = FolderCache(tmp_path).run("work", {})
    run.save("step", STATE)
    run.close(done=False)
    cache = FolderCache(tmp_path)
    assert cache.store.evict(0) == 0
    assert cache.store.contents() == []


def test_a_damaged_state_is_reported_and_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FolderCache(tmp_path).run("work", {}) as run:
        run.save("step", STATE)
        [path] = (tmp_path / "runs").glob("*/step.*")
        path.write_bytes(path.read_bytes()[:-1])
        assert run.has("step")
        assert run.load("step") is None
        assert not run.has("step")
    note = capsys.readouterr().err
    assert "damaged" in note
    assert note.count("\n") == 1


def test_what_the_work_needs_again_goes_elsewhere_when_the_cache_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_whole = run_module.write_whole

    def write(path: Path, *rest: object) -> int:
        if tmp_path in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_whole(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module, "write_whole", write)
    with FolderCache(tmp_path).run("work", {}) as run:
        assert run.resumable
        run.spill("inputs", STATE)
        assert not run.resumable
        loaded = run.fetch("inputs")
        assert loaded is not None
        [private] = {path.parent for path in run._spilled.values()}
        assert private.exists()
        run._spilled["inputs"].write_bytes(b"damaged")
        assert run.fetch("inputs") is None
    assert not private.exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_half_of_the_limit_is_left_to_others(tmp_path: Path) -> None:
    with FolderCache(tmp_path, limit=1000).run("work", {}) as run:
        assert run.takes(500)
        assert not run.takes(501)
        run.reserve(500)
        assert run.resumable
        run.reserve(501)
        assert not run.resumable


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    lock = FileLock(path)
    assert lock.acquire()
    ready.set()
    time.sleep(60)


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lock", ready))
    process.start()
    try:
        assert ready.wait(60)
        assert not FileLock(tmp_path / "lock").acquire()
    finally:
        process.kill()
        process.join()
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    assert not FileLock(tmp_path / "lock").acquire()
    lock.release()
    assert FileLock(tmp_path / "lock").acquire()
