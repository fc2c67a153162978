"""A lock between processes that the system releases when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import filelock

# The holder before may remove the file between opening and locking; then the next attempt makes a new one.
_ATTEMPTS = 3
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class FileLock:
    """An exclusive lock on a file. Threads and objects of one process exclude each other, too."""

    def __init__(self, path: Path) -> None:
        """Prepare a lock; nothing is locked yet.

        Args:
            path: file to lock, which is made when it is missing; a link is not followed.
        """
        self._path = path
        self._lock: filelock.BaseFileLock | None = None

    def acquire(self) -> bool:
        """Lock without waiting; False when another holder has it, or the file system has no locks.

        Raises:
            OSError: the file cannot be made, or its folder is missing.
        """
        self._path.parent.stat()  # filelock would make the folder
        for _ in range(_ATTEMPTS):
            lock = filelock.FileLock(self._path, thread_local=False)
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout:
                continue
            except OSError as error:
                if error.errno in _UNSUPPORTED:
                    return False
                raise
            self._lock = lock
            return True
        return False

    def release(self) -> None:
        """Unlock; nothing happens when it is not locked."""
        if self._lock is not None:
            self._lock.release(force=True)
            self._lock = None

    def discard(self) -> None:
        """Remove the file and unlock."""
        with contextlib.suppress(OSError):  # Windows removes no open file, but filelock does so as it unlocks
            self._path.unlink(missing_ok=True)
        self.release()
