"""What the stages see of a cache: results by what they were made from."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.progress import log
from .contents import LASTING, Store, remove_file, write_whole
from .entry import DamagedError, Entry, read_entry
from .folder import DEFAULT_LIMIT, default_folder
from .keys import Parts, key_of, machine, versions
from .run import Run


class Cache(ABC):
    """Results by kind and by what they were made from."""

    @abstractmethod
    def about(self, **parts: Any) -> Cache:
        """The same cache for results that all depend on ``parts``, e.g. on the model."""

    @abstractmethod
    def get(self, kind: str, parts: Parts) -> Entry | None:
        """What was kept of ``kind`` for ``parts``; None when there is nothing. A damaged entry is dropped."""

    @abstractmethod
    def put(self, kind: str, parts: Parts, entry: Entry) -> None:
        """Keep an entry, if there is room and the folder can be written."""

    @abstractmethod
    def run(self, kind: str, parts: Parts) -> Run:
        """Unfinished work on ``parts``, to go on with; no other process has it meanwhile.

        That of kinds in ``store.LASTING`` stays when the work is done, for other work.
        """

    def entry(self, kind: str, parts: Parts, make: Callable[[], Entry]) -> Entry:
        """The entry that was kept for ``parts``, or the one that ``make`` gives, which is kept.

        Args:
            kind: of result, lower-case letters and hyphens.
            parts: everything that it depends on beside the versions and what the cache is ``about``.
            make: makes it.
        """
        found = self.get(kind, parts)
        if found is None:
            found = make()
            self.put(kind, parts, found)
        return found


class NoCache(Cache):
    """Keeps nothing: everything is made."""

    def about(self, **parts: Any) -> Cache:
        return self

    def get(self, kind: str, parts: Parts) -> Entry | None:
        return None

    def put(self, kind: str, parts: Parts, entry: Entry) -> None:
        pass

    def run(self, kind: str, parts: Parts) -> Run:
        return Run(None)


NO_CACHE = NoCache()
"""For work whose caller has no cache."""


class FolderCache(Cache):
    """A cache in a folder.

    Trouble with the folder is told once and then costs nothing but the time to make things again. What this process
    has read or written is not evicted by it.
    """

    def __init__(self, folder: Path, *, limit: int = DEFAULT_LIMIT, threads: int | None = None) -> None:
        """Of ``folder``, which is made when something is written.

        Args:
            folder: of the cache.
            limit: bytes that it may take.
            threads: that the results are computed with, None for all; their number may change the last digits.
        """
        self.store = Store(folder)
        self.limit = limit
        self._threads = threads
        self._parts: dict[str, Any] = {}
        self._state = _State()

    def about(self, **parts: Any) -> Cache:
        bound = FolderCache(self.store.folder, limit=self.limit, threads=self._threads)
        bound._parts = {**self._parts, **parts}
        bound._state = self._state
        return bound

    def _key(self, kind: str, parts: Parts) -> str:
        made_by = {"versions": versions(), "machine": machine(self._threads)}
        return key_of(kind, {**made_by, "about": self._parts, "of": parts})

    def get(self, kind: str, parts: Parts) -> Entry | None:
        path = self.store.entry_path(kind, self._key(kind, parts))
        try:
            found = read_entry(path)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            log(f"Note: an entry of the cache is damaged ({kind}: {error}); it is made again.")
            remove_file(path)
            return None
        except OSError as error:
            self._complain(error.strerror or str(error))
            return None
        self._state.used.add(path)
        _touch(path)
        return found

    def put(self, kind: str, parts: Parts, entry: Entry) -> None:
        if not self._state.writing:
            return
        path = self.store.entry_path(kind, self._key(kind, parts))
        # It must not go while others make room for it.
        self._state.used.add(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, entry.arrays, entry.record)
            if not self._make_room():
                remove_file(path)
        except OSError as error:
            self._state.writing = False
            self._complain(error.strerror or str(error))

    def run(self, kind: str, parts: Parts) -> Run:
        if not self._state.writing:
            return Run(None)
        folder = self.store.run_path(kind, self._key(kind, parts))
        return Run(folder, self._complain, self._make_room, self.limit, lasting=kind in LASTING)

    def _make_room(self) -> bool:
        """Evict what is beyond the limit; False when what this process is at is beyond it."""
        try:
            left = self.store.evict(self.limit, self._state.used)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return False
        if left > self.limit and not self._state.told_full:
            self._state.told_full = True
            log(
                f"Note: this work needs more of the cache than its limit of {self.limit / 1e9:.3g} GB, so not all "
                "of it is kept; raise --cache-limit."
            )
        return left <= self.limit

    def _complain(self, reason: str) -> None:
        if not self._state.told:
            self._state.told = True
            log(f"Note: the cache {self.store.folder} cannot be used in full ({reason}); the work goes on without.")


class _State:
    """What all views of a cache share."""

    def __init__(self) -> None:
        self.writing = True
        self.told = False
        self.told_full = False
        self.used: set[Path] = set()


def open_cache(folder: Path | None = None, *, limit: int = DEFAULT_LIMIT, threads: int | None = None) -> Cache:
    """The cache in ``folder``, or in the platform's place for it; one that keeps nothing where there is no place."""
    try:
        place = folder.expanduser() if folder is not None else default_folder()
    except (InputError, RuntimeError) as error:
        log(f"Note: {error}")
        return NO_CACHE
    return FolderCache(place, limit=limit, threads=threads)


def _touch(path: Path) -> None:
    """Note that the file was used."""
    with contextlib.suppress(OSError):
        os.utime(path)
