"""The cache as the stages see it: results by what they were made from."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.files import user_path
from ..system.progress import log
from .code import code_digest, source_digest
from .contents import LASTING, Store, remove_file, write_whole
from .entry import DamagedError, Entry, read_entry
from .folder import CODE_FILE, DEFAULT_LIMIT, check_folder, default_folder, refusal
from .keys import Parts, key_of, machine, versions
from .run import Guard, Run, unguarded


class Cache(ABC):
    """Results by kind and by what they were made from."""

    @abstractmethod
    def about(self, **parts: Any) -> Cache:
        """The same cache for results that all depend on ``parts``, e.g. on the model."""

    @abstractmethod
    def labelled(self, model: str) -> Cache:
        """The same cache, which notes beside all that is stored that it is about ``model``: a name for people.

        It has no influence on what is found.
        """

    @abstractmethod
    def guarded(self, guard: Guard) -> Cache:
        """The same cache, which calls ``guard`` before anything is stored.

        Args:
            guard: raises an error when the results are not to be believed, e.g. ``Fingerprints.check`` when a file of
                the model has changed. The error ends the work.
        """

    @abstractmethod
    def get(self, kind: str, parts: Parts) -> Entry | None:
        """The stored result of ``kind`` for ``parts``; None when there is none. A damaged entry is removed."""

    @abstractmethod
    def has(self, kind: str, parts: Parts) -> bool:
        """True if there is a result, whole or damaged, or unfinished or lasting work on it."""

    @abstractmethod
    def put(self, kind: str, parts: Parts, entry: Entry) -> None:
        """Store an entry, if there is room and the folder can be written."""

    @abstractmethod
    def run(self, kind: str, parts: Parts) -> Run:
        """Unfinished work on ``parts``, to go on with; no other process has it meanwhile.

        The folder of a kind in ``contents.LASTING`` stays when the work is done, for other work.
        """

    def entry(self, kind: str, parts: Parts, make: Callable[[], Entry]) -> Entry:
        """The stored entry for ``parts``, or the one that ``make`` returns, which is stored.

        Args:
            kind: kind of result, lower-case letters and hyphens.
            parts: everything that it depends on beside the versions and what the cache is ``about``.
            make: function that computes it.
        """
        entry = self.get(kind, parts)
        if entry is None:
            entry = make()
            self.put(kind, parts, entry)
        return entry


class NoCache(Cache):
    """Stores nothing: everything is computed."""

    def about(self, **parts: Any) -> Cache:
        return self

    def labelled(self, model: str) -> Cache:
        return self

    def guarded(self, guard: Guard) -> Cache:
        return self

    def get(self, kind: str, parts: Parts) -> Entry | None:
        return None

    def has(self, kind: str, parts: Parts) -> bool:
        return False

    def put(self, kind: str, parts: Parts, entry: Entry) -> None:
        pass

    def run(self, kind: str, parts: Parts) -> Run:
        return Run(None)


NO_CACHE = NoCache()
"""For work whose caller has no cache."""


class FolderCache(Cache):
    """A cache in a folder.

    Trouble with the folder is reported once and costs nothing but the time to compute things again. What this process
    has read or written is not evicted by it.
    """

    def __init__(self, folder: Path, *, limit: int = DEFAULT_LIMIT, threads: int | None = None) -> None:
        """Use a folder, which is made when something is written.

        Args:
            folder: place of the cache.
            limit: bytes that it may take.
            threads: number of threads that compute the results, None for all; it may change the last digits.
        """
        self.store = Store(folder)
        self.limit = limit
        self._threads = threads
        self._parts: dict[str, Any] = {}
        self._guard: Guard = unguarded
        self._model = ""
        self._state = _State()

    def about(self, **parts: Any) -> Cache:
        view = self._view()
        view._parts = {**self._parts, **parts}
        return view

    def labelled(self, model: str) -> Cache:
        view = self._view()
        view._model = model
        return view

    def guarded(self, guard: Guard) -> Cache:
        view = self._view()
        view._guard = guard
        return view

    def _view(self) -> FolderCache:
        view = FolderCache(self.store.folder, limit=self.limit, threads=self._threads)
        view._parts, view._guard, view._model, view._state = self._parts, self._guard, self._model, self._state
        return view

    def _key(self, kind: str, parts: Parts) -> str:
        made_by = {"versions": versions(self._code()), "machine": machine(self._threads)}
        return key_of(kind, {**made_by, "about": self._parts, "of": parts})

    def get(self, kind: str, parts: Parts) -> Entry | None:
        if not self._is_usable():
            return None
        path = self.store.entry_path(kind, self._key(kind, parts))
        try:
            check_folder(path.parent)
            entry = read_entry(path, path.stem)
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
        return entry

    def has(self, kind: str, parts: Parts) -> bool:
        if not self._is_usable():
            return False
        key = self._key(kind, parts)
        try:
            return self.store.entry_path(kind, key).is_file() or self.store.has_run(kind, key)
        except OSError:  # told where something is read or stored
            return False

    def put(self, kind: str, parts: Parts, entry: Entry) -> None:
        self._guard()
        if not self._is_usable() or not self._state.writing:
            return
        path = self.store.entry_path(kind, self._key(kind, parts))
        # It must not be removed while others make room for it.
        self._state.used.add(path)
        try:
            self.store.prepare(path.parent.name)
            write_whole(path, entry.arrays, entry.record, path.stem, self._model)
            if not self._make_room():
                remove_file(path)
        except OSError as error:
            self._state.writing = False
            self._complain(error.strerror or str(error))

    def run(self, kind: str, parts: Parts) -> Run:
        if not self._is_usable() or not self._state.writing:
            return Run(None)
        folder = self.store.run_path(kind, self._key(kind, parts))
        try:
            self.store.prepare(folder.parent.name)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return Run(None)
        return Run(
            folder,
            self._complain,
            self._make_room,
            self.limit,
            lasting=kind in LASTING,
            guard=self._guard,
            model=self._model,
        )

    def _code(self) -> str:
        """Digest of the package's code, which takes half a second to compute and is therefore stored by its source."""
        if self._state.code is None:
            source, path = source_digest(), self.store.folder / CODE_FILE
            with contextlib.suppress(OSError, DamagedError):
                if self._is_usable():
                    self._state.code = read_entry(path, source).record
            if self._state.code is None:
                self._state.code = code_digest()
                with contextlib.suppress(OSError):
                    if self._is_usable() and self.store.folder.is_dir():
                        write_whole(path, {}, self._state.code, source)
        return self._state.code

    def _is_usable(self) -> bool:
        """True unless others could plant results in the folder, which is reported once."""
        if self._state.usable is None:
            reason = refusal(self.store.folder)
            self._state.usable = reason is None
            if reason is not None:
                log(f"Note: the cache {self.store.folder} is not used: {reason}; the work goes on without a cache.")
        return self._state.usable

    def _make_room(self) -> bool:
        """Evict what is beyond the limit; False when what this process uses is beyond it."""
        try:
            rest = self.store.evict(self.limit, self._state.used)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return False
        if rest > self.limit and not self._state.reported_full:
            self._state.reported_full = True
            log(
                f"Note: this work needs more of the cache than its limit of {self.limit / 1e9:.3g} GB, so not all "
                "of it is stored; raise --cache-limit."
            )
        return rest <= self.limit

    def _complain(self, reason: str) -> None:
        if not self._state.reported:
            self._state.reported = True
            log(f"Note: the cache {self.store.folder} cannot be used in full ({reason}); the work goes on without.")


class _State:
    """What all views of a cache share."""

    def __init__(self) -> None:
        self.usable: bool | None = None
        self.writing = True
        self.reported = False
        self.reported_full = False
        self.code: str | None = None
        self.used: set[Path] = set()


def open_cache(folder: Path | None = None, *, limit: int = DEFAULT_LIMIT, threads: int | None = None) -> Cache:
    """The cache in a folder, or one that stores nothing where there is no place for it.

    Args:
        folder: place of the cache, None for the platform's place.
        limit: bytes that it may take.
        threads: number of threads that compute the results, None for all.
    """
    try:
        place = user_path(folder) if folder is not None else default_folder()
    except (InputError, RuntimeError) as error:
        log(f"Note: {error}")
        return NO_CACHE
    return FolderCache(place, limit=limit, threads=threads)


def _touch(path: Path) -> None:
    """Note that the file was used."""
    with contextlib.suppress(OSError):
        os.utime(path)
