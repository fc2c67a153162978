"""Temporary files and folders. A killed process leaves them behind, and the next one removes them.

Each has a lock beside it that its process holds. Where the lock can be taken, the process has ended: this also holds
for processes of other containers and other machines that share a folder, about whose process ids nothing is known.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .lock import FileLock

_LOCK = re.compile(r"(?P<name>\.?lieq-[0-9a-f]{8})\.lock")
_FILE = ".tmp"
_ATTEMPTS = 8

# Names in use, with the process that uses them, because a forked process must not remove what its parent uses.
_present: dict[Path, tuple[int, FileLock]] = {}


@contextlib.contextmanager
def temporary_file(folder: Path, *, mode: int = 0o600) -> Iterator[Path]:
    """A new empty file, hidden in ``folder``; it is removed at the end unless it was renamed.

    Args:
        folder: place of the file.
        mode: permissions of the file, from which the user's umask is taken.

    Raises:
        OSError: it cannot be made.
    """
    with _name_in(folder, hidden=True) as name:
        path = folder / f"{name}{_FILE}"
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            yield path
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder that only this user can read; it is removed at the end.

    Args:
        parent: place of the folder, e.g. beside an output because there is room for it; None takes the system's
            folder for temporary files. What killed processes left there is removed first.

    Raises:
        OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    sweep_folder(place)
    with _name_in(place, hidden=parent is not None) as name:
        path = place / name
        try:
            path.mkdir(mode=0o700)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def sweep_folder(folder: Path) -> None:
    """Remove the temporary files and folders that ended processes of this user have left in ``folder``."""
    for lock_path in _locks_in(folder):
        lock = FileLock(lock_path)
        with contextlib.suppress(OSError):
            if lock.acquire():
                _remove_left(folder / lock_path.name.removesuffix(".lock"), lock)


def remove_present() -> None:
    """Remove the temporary files and folders of this process, which ends without leaving their ``with`` blocks."""
    for base, (owner, lock) in list(_present.items()):
        if owner == os.getpid():
            _remove_left(base, lock)


def is_owned(status: os.stat_result) -> bool:
    """True when a file belongs to this user; always True on Windows, which gives each user folders of their own."""
    return sys.platform == "win32" or status.st_uid == os.geteuid()


@contextlib.contextmanager
def _name_in(folder: Path, *, hidden: bool) -> Iterator[str]:
    """A free name, with a lock beside it for as long as the block runs."""
    for _ in range(_ATTEMPTS):
        name = f"{'.' if hidden else ''}lieq-{secrets.token_hex(4)}"
        path = folder / f"{name}.lock"
        if path.exists():
            continue
        lock = FileLock(path)
        if lock.acquire():
            base = folder.absolute() / name
            _present[base] = os.getpid(), lock
            try:
                yield name
            finally:
                _present.pop(base, None)
                lock.discard()
            return
        # Another process looks whether it can be removed, or the file system has no locks.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    # Without a lock it is not recognised later, and never removed by mistake.
    yield name


def _locks_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        paths = [folder / entry.name for entry in entries if _LOCK.fullmatch(entry.name)]
        return [path for path in paths if _is_ours(path)]
    return []


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = path.lstat()
        return is_owned(status) and not stat.S_ISLNK(status.st_mode)
    return False


def _remove_left(base: Path, lock: FileLock) -> None:
    left = [path for path in (base, base.with_name(f"{base.name}{_FILE}")) if _is_ours(path)]
    for path in left:
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
    if any(os.path.lexists(path) for path in left):
        lock.release()
    else:
        lock.discard()
