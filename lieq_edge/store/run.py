"""Unfinished work: what a stage of several steps has done so far, so that it can resume where it was stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from ..system.files import check_space
from ..system.lock import FileLock
from ..system.progress import log
from ..system.temporary import sweep_folder, temporary_folder
from .contents import LOCK, SUFFIX, remove_file, write_whole
from .entry import Arrays, DamagedError, Entry, read_entry
from .folder import check_folder

Guard = Callable[[], None]
"""Is called before anything is stored; raises an error when it must not be."""


def unguarded() -> None:
    """The guard that lets everything pass."""


class Run:
    """A folder of states by name, in the hands of one process; use it in a ``with`` block.

    When the block is left without an error the work is done and the folder is removed; when it is left with one, or
    the process ends within it, the states stay so that the same work can resume.

    A run without a folder (no cache, or another process is at the same work) stores nothing: ``save`` does nothing and
    ``load`` returns nothing. Only what the work itself needs again (``spill``) is stored then, in a temporary folder.
    """

    def __init__(
        self,
        folder: Path | None,
        complain: Callable[[str], None] = lambda reason: None,
        fits: Callable[[], bool] = lambda: True,
        limit: int | None = None,
        *,
        lasting: bool = False,
        guard: Guard = unguarded,
        model: str = "",
    ) -> None:
        """Take the folder, if no other process has it.

        Args:
            folder: place of the states, None for a run that cannot resume.
            complain: function that receives, once, the reason why states cannot be stored.
            fits: function that says whether there is room for more states.
            limit: bytes that all the cache may take.
            lasting: the folder stays when the work is done, for other work that needs the same states.
            guard: function that is called before a state is saved; its error ends the work.
            model: label of the model that the work is about, for people.
        """
        self._complain = complain
        self._fits = fits
        self._limit = limit
        self._lasting = lasting
        self._guard = guard
        self._model = model
        self._private: Path | None = None
        self._cleanup = ExitStack()
        self._spilled: dict[str, Path] = {}
        self._identity = "" if folder is None else folder.name
        self._folder, self._lock = self._take(folder)
        self._writing = self._folder is not None

    def _take(self, folder: Path | None) -> tuple[Path | None, FileLock | None]:
        if folder is None:
            return None, None
        lock = FileLock(folder / LOCK)
        try:
            try:
                acquired = _make_and_lock(folder, lock)
            except FileNotFoundError:
                # Another process made room, or finished the work, just now.
                acquired = _make_and_lock(folder, lock)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return None, None
        if not acquired:
            return None, None
        sweep_folder(folder)
        return folder, lock

    @property
    def resumable(self) -> bool:
        """True when states are stored."""
        return self._writing

    def save(self, name: str, arrays: Arrays, record: Any = None) -> bool:
        """Store a state in the place of an older one of the same name; False when it cannot be stored."""
        self._guard()
        if not self._writing or self._folder is None or not self._fits():
            return False
        try:
            write_whole(self._path(self._folder, name), arrays, record, self._label(name), self._model)
        except OSError as error:
            self._writing = False
            self._complain(error.strerror or str(error))
        return self._writing

    def load(self, name: str) -> Entry | None:
        """The state of this name; None when there is none. A damaged one is removed."""
        if self._folder is None:
            return None
        path = self._path(self._folder, name)
        try:
            return read_entry(path, self._label(name))
        except FileNotFoundError:
            return None
        except DamagedError as error:
            log(f"Note: an entry of the cache is damaged ({name}: {error}); it is made again.")
            remove_file(path)
        except OSError as error:
            self._complain(error.strerror or str(error))
        return None

    def has(self, name: str) -> bool:
        """True when there is a state of this name, whole or damaged."""
        return self._folder is not None and self._path(self._folder, name).exists()

    def drop(self, name: str) -> None:
        """Remove a state that is not needed any more."""
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
            self._complain("its disk is too full, or its limit too low, for what is spilled between two passes")
        check_space(Path(tempfile.gettempdir()), size)

    def takes(self, size: int) -> bool:
        """True when states of ``size`` bytes in all fit on the disk, and half of the limit is left to others."""
        if not self._writing or self._folder is None or (self._limit is not None and size > self._limit / 2):
            return False
        with contextlib.suppress(OSError):
            return shutil.disk_usage(self._folder).free >= size
        return False

    def spill(self, name: str, arrays: Arrays, record: Any = None) -> None:
        """Store what this process needs again; where states are stored it is one of them.

        Raises:
            OSError: neither the cache nor the folder for temporary files can take it.
        """
        if self.save(name, arrays, record):
            return
        if self._private is None:
            self._private = self._cleanup.enter_context(temporary_folder())
        path = self._path(self._private, name)
        write_whole(path, arrays, record, self._label(name))
        self._spilled[name] = path

    def fetch(self, name: str) -> Entry | None:
        """What was spilled, by this process or the one before; None when it is gone."""
        if name in self._spilled:
            with contextlib.suppress(FileNotFoundError, DamagedError):
                return read_entry(self._spilled[name], self._label(name))
            remove_file(self._spilled.pop(name))
        return self.load(name)

    def _label(self, name: str) -> str:
        """The name that a state holds inside: a folder or file that was copied from other work has another one."""
        return f"{self._identity}/{name}"

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
        """Give the folder back.

        Args:
            done: the work is finished, so that its folder is removed. A folder without states is removed anyway.
        """
        self._cleanup.close()
        self._private = None
        if self._folder is None or self._lock is None:
            return
        is_empty = all(path.name == LOCK for path in _listed(self._folder))
        ends = is_empty or (done and not self._lasting)
        if ends:
            shutil.rmtree(self._folder, ignore_errors=True)
        elif self._lasting:
            with contextlib.suppress(OSError):
                os.utime(self._folder)  # it was used now
        self._lock.release()
        if ends and os.name == "nt":
            # The file of a lock that is held cannot be removed there.
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = self._lock = None
        self._writing = False


def _make_and_lock(folder: Path, lock: FileLock) -> bool:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_folder(folder)
    return lock.acquire()


def _listed(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.iterdir())
    return []
