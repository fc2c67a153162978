"""A lock between processes that the system releases when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


class FileLock:
    """An exclusive lock on a file. Threads and objects of one process exclude each other, too."""

    def __init__(self, path: Path) -> None:
        """Of the file ``path``, which is made when it is not there; nothing is locked yet."""
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Lock without waiting; False when another holder has it, or the file system knows no locks.

        Raises:
            OSError: the file cannot be made.
        """
        while True:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _lock(handle):
                    os.close(handle)
                    return False
                if _is_at(handle, self._path):
                    self._handle = handle
                    return True
            except BaseException:
                os.close(handle)
                raise
            # The holder before removed the file between opening and locking: what is locked is no longer there.
            os.close(handle)

    def release(self) -> None:
        """Unlock; the file stays."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _is_at(handle: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
