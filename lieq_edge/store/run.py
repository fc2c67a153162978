"""Unfinished work: what a stage of several steps has done so far, so that it can go on where it was stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..system.files import check_space, process_ended, process_mark
from ..system.progress import log
from .contents import LOCK, SUFFIX, remove_file, write_whole
from .entry import Arrays, DamagedError, Entry, read_entry
from .lock import FileLock

# How folders for what the cache does not take begin in the folder for temporary files.
_PRIVATE = "lieq-run"


class Run:
    """A folder of states by name, in the hands of one process; use it in a ``with`` block.

    When the block is left without an error the work is done and the folder goes; when it is left with one, or the
    process ends within it, the states stay for the same work to go on.

    A run without a folder (no cache, or another process is at the same work) keeps nothing: ``save`` does nothing and
    ``load`` finds nothing. Only what the work itself needs again (``spill``) is kept then, in a temporary folder.
    """

    def __init__(
        self,
        folder: Path | None,
        complain: Callable[[str], None] = lambda reason: None,
        fits: Callable[[], bool] = lambda: True,
        limit: int | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        """Take the folder, if it can be had.

        Args:
            folder: of the states, None for a run that cannot go on.
            complain: is told, once, why states cannot be kept.
            fits: tells whether there is room for more states.
            limit: bytes that all the cache may take.
            lasting: the folder stays when the work is done, for other work that needs the same states.
        """
        self._complain = complain
        self._fits = fits
        self._limit = limit
        self._lasting = lasting
        self._private: Path | None = None
        self._spilled: dict[str, Path] = {}
        self._folder, self._lock = self._take(folder)
        self._writing = self._folder is not None

    def _take(self, folder: Path | None) -> tuple[Path | None, FileLock | None]:
        if folder is None:
            return None, None
        try:
            lock = FileLock(folder / LOCK)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                taken = lock.acquire()
            except FileNotFoundError:
                # Another process made room, or finished the work, just now.
                folder.mkdir(parents=True, exist_ok=True)
                taken = lock.acquire()
            if not taken:
                return None, None
        except OSError as error:
            self._complain(error.strerror or str(error))
            return None, None
        # Files in writing when the process before ended.
        for path in folder.glob(".*.tmp"):
            remove_file(path)
        return folder, lock

    @property
    def resumable(self) -> bool:
        """States are kept."""
        return self._writing

    def save(self, name: str, arrays: Arrays, record: Any = None) -> bool:
        """Keep a state under ``name``, in the place of an older one; False when it cannot be kept."""
        if not self._writing or self._folder is None or not self._fits():
            return False
        try:
            write_whole(self._path(self._folder, name), arrays, record)
        except OSError as error:
            self._writing = False
            self._complain(error.strerror or str(error))
        return self._writing

    def load(self, name: str) -> Entry | None:
        """The state under ``name``; None when there is none. A damaged one is dropped."""
        if self._folder is None:
            return None
        path = self._path(self._folder, name)
        try:
            return read_entry(path)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            log(f"Note: an entry of the cache is damaged ({name}: {error}); it is made again.")
            remove_file(path)
        except OSError as error:
            self._complain(error.strerror or str(error))
        return None

    def has(self, name: str) -> bool:
        """There is a state under ``name``, whole or damaged."""
        return self._folder is not None and self._path(self._folder, name).exists()

    def drop(self, name: str) -> None:
        """Forget a state that is needed no more."""
        if self._folder is not None:
            remove_file(self._path(self._folder, name))
        if name in self._spilled:
            remove_file(self._spilled.pop(name))

    def reserve(self, size: int) -> None:
        """Make sure that ``size`` bytes can be spilled, before any time is spent on them.

        Raises:
            InputError: neither the cache's disk nor that of temporary files has so much space.
        """
        if self._writing and self._folder is not None:
            if self.takes(size):
                return
            self._writing = False
            self._complain("its disk is too full, or its limit too low, for what waits between two passes")
        check_space(Path(tempfile.gettempdir()), size)

    def takes(self, size: int) -> bool:
        """States of ``size`` bytes in all find room on the disk, and leave the better half of the limit to others."""
        if not self._writing or self._folder is None or (self._limit is not None and size > self._limit / 2):
            return False
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self._folder).free >= size
        return False

    def spill(self, name: str, arrays: Arrays, record: Any = None) -> None:
        """Put away what this process needs again; where states are kept it is one of them.

        Raises:
            OSError: neither the cache nor the folder for temporary files can take it.
        """
        if self.save(name, arrays, record):
            return
        if self._private is None:
            _sweep()
            self._private = Path(tempfile.mkdtemp(prefix=f"{_PRIVATE}.{process_mark()}."))
        path = self._path(self._private, name)
        write_whole(path, arrays, record)
        self._spilled[name] = path

    def fetch(self, name: str) -> Entry | None:
        """What was spilled, by this process or the one before; None when it is gone."""
        if name in self._spilled:
            with contextlib.suppress(FileNotFoundError, DamagedError):
                return read_entry(self._spilled[name])
            remove_file(self._spilled.pop(name))
        return self.load(name)

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{name}{SUFFIX}"

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(done=kind is None)

    def close(self, *, done: bool) -> None:
        """Give the folder back, and remove it when the work is ``done`` or nothing was kept."""
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = None
        if self._folder is None or self._lock is None:
            return
        empty = all(path.name == LOCK for path in _listed(self._folder))
        goes = empty or (done and not self._lasting)
        if goes:
            shutil.rmtree(self._folder, ignore_errors=True)
        elif self._lasting:
            with contextlib.suppress(OSError):
                os.utime(self._folder)  # it was used now
        self._lock.release()
        if os.name == "nt" and goes:
            # There the lock's file could not go before.
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._lock = None
        self._writing = False


def _sweep() -> None:
    """Remove what killed processes have left in the folder for temporary files."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}.*.*"):
        if process_ended(path.name.split(".")[1]):
            shutil.rmtree(path, ignore_errors=True)


def _listed(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.iterdir())
    return []
