"""One holder at a time, whatever happens to the file."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import filelock
import pytest

from lieq_edge.system.lock import FileLock


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    holders, most = [0], [0]
    guard = threading.Lock()
    acquired = []

    def work() -> None:
        for _ in range(50):
            lock = FileLock(tmp_path / "lock")
            if lock.acquire():
                with guard:
                    holders[0] += 1
                    most[0] = max(most[0], holders[0])
                    acquired.append(1)
                time.sleep(0.0002)
                with guard:
                    holders[0] -= 1
                lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert acquired


def test_a_discarded_file_is_made_again_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert not second.acquire()
    first.discard()
    assert not path.exists()
    assert second.acquire()
    assert path.exists()
    assert not FileLock(path).acquire()
    second.release()


def test_many_that_remove_and_make_the_file_never_hold_it_together(tmp_path: Path) -> None:
    wrong: list[str] = []
    inside = threading.Lock()

    def work() -> None:
        for _ in range(100):
            lock = FileLock(tmp_path / "lock")
            if lock.acquire():
                if not inside.acquire(blocking=False):
                    wrong.append("two holders")
                else:
                    time.sleep(0.0002)
                    inside.release()
                lock.discard()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):  # noqa: PT011 - the reason differs between systems
        FileLock(tmp_path / "lock").acquire()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "not supported")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert not FileLock(tmp_path / "lock").acquire()


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "none" / "lock").acquire()
    assert not (tmp_path / "none").exists()
