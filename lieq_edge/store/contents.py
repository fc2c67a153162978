"""The folder of a cache: what lies in it, how it is written, and what is removed when it becomes too large.

``entries/`` holds finished results, one file each; ``runs/`` holds a folder for each piece of unfinished work, locked
while a process is at it. Several processes use a folder at once: files appear whole by a rename, and what is missing
by the time it is looked at was removed by another process. Links are neither followed nor removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.lock import FileLock
from ..system.temporary import is_owned, sweep_folder, temporary_file
from .entry import Arrays, read_label, write_entry
from .folder import prepare, refusal

SUFFIX = ".safetensors"
LOCK = "lock"
LASTING = ("hessians", "tuning")
"""Kinds of work whose folders stay when it is done."""

_NAME = re.compile(r"(?P<kind>[a-z-]+)\.(?P<key>[0-9a-f]{64})")
# Half-written files without a lock, where the file system has none.
_TEMPORARY = re.compile(r"\..*\.tmp")
_OLD_SECONDS = 24 * 3600
_NEW_SECONDS = 60


@dataclass(frozen=True)
class Stored:
    """Something in a cache.

    Attributes:
        path: file of the entry, or folder of unfinished work.
        kind: kind of result.
        key: key of it.
        bytes: size.
        used: time when it was last written or read, seconds since 1970.
        unfinished: it is unfinished work.
    """

    path: Path
    kind: str
    key: str
    bytes: int
    used: float
    unfinished: bool = False


class Store:
    """A cache folder. Nothing is made in it before something is written."""

    def __init__(self, folder: Path) -> None:
        """Look at a folder.

        Args:
            folder: the cache; it may be missing.
        """
        self.folder = folder

    def prepare(self, *inside: str) -> Path:
        """Make the folder, and one in it, for this user alone.

        Raises:
            OSError: it cannot be made, or other users can write to it.
        """
        return prepare(self.folder, *inside)

    def entry_path(self, kind: str, key: str) -> Path:
        """Path of an entry, whether it is there or not."""
        return self.folder / "entries" / f"{kind}.{key}{SUFFIX}"

    def run_path(self, kind: str, key: str) -> Path:
        """Path of unfinished work, whether it is there or not."""
        return self.folder / "runs" / f"{kind}.{key}"

    def has_run(self, kind: str, key: str) -> bool:
        """There is unfinished or lasting work of which anything is stored.

        Raises:
            OSError: its folder cannot be read.
        """
        return not _is_empty(_files(self.run_path(kind, key)))

    def contents(self) -> list[Stored]:
        """All entries and unfinished work of which anything is stored, the longest unused first.

        Raises:
            OSError: the folder is there and cannot be read.
        """
        everything = [*self._entries(), *self._runs()]
        return sorted(everything, key=lambda stored: (stored.used, stored.path.name))

    def _entries(self) -> Iterator[Stored]:
        for path, status in _files(self.folder / "entries"):
            match = _NAME.fullmatch(path.name.removesuffix(SUFFIX))
            if match and path.suffix == SUFFIX:
                yield Stored(path, match["kind"], match["key"], status.st_size, status.st_mtime)

    def _runs(self) -> Iterator[Stored]:
        for path, status in _files(self.folder / "runs", folders=True):
            match = _NAME.fullmatch(path.name)
            inside = list(_files(path)) if match else []
            if match and not _is_empty(inside):
                parts = [part for _, part in inside]
                used = max([status.st_mtime, *(part.st_mtime for part in parts)])
                size, unfinished = sum(part.st_size for part in parts), match["kind"] not in LASTING
                yield Stored(path, match["kind"], match["key"], size, used, unfinished)

    def model_of(self, stored: Stored) -> str | None:
        """Label of the model that it is about; None where none was noted, or it is damaged or gone."""
        if not stored.path.is_dir():
            return read_label(stored.path)
        with contextlib.suppress(OSError):
            labels = (read_label(path) for path, _ in _files(stored.path) if path.suffix == SUFFIX)
            return next((label for label in labels if label is not None), None)
        return None

    def by_model(self) -> dict[str | None, list[Stored]]:
        """The contents by the label of their model, the longest unused first; None for those without a label.

        Raises:
            OSError: the folder is there and cannot be read.
        """
        models: dict[str | None, list[Stored]] = {}
        for stored in self.contents():
            models.setdefault(self.model_of(stored), []).append(stored)
        return models

    def remove(self, stored: Stored) -> bool:
        """Remove it; False when it is in use or cannot be removed. What is gone already counts as removed."""
        return remove_run(stored.path) if stored.path.is_dir() else remove_file(stored.path)

    def evict(self, limit: int, keep: Collection[Path] = ()) -> int:
        """Remove what was longest unused until the rest takes at most ``limit`` bytes; returns the bytes of the rest.

        Args:
            limit: bytes that may stay.
            keep: paths that stay; unfinished work that a process is at stays too.

        Raises:
            OSError: the folder cannot be read.
        """
        self.sweep()
        contents = self.contents()
        total = sum(stored.bytes for stored in contents)
        for stored in contents:
            if total <= limit:
                break
            if stored.path not in keep and self.remove(stored):
                total -= stored.bytes
        return total

    def clear(self, wanted: Collection[Path] | None = None) -> tuple[int, int]:
        """Remove what no process is at; returns the number of things and their bytes.

        Args:
            wanted: paths of what is removed; everything when None.

        Raises:
            InputError: other users can write to the folder, or something cannot be removed.
            OSError: the folder cannot be read.
        """
        reason = refusal(self.folder)
        if reason is not None:
            raise InputError(f"The cache {self.folder} is left alone: {reason}.")
        self.sweep()
        some = [stored for stored in self.contents() if wanted is None or stored.path in wanted]
        removed = [stored for stored in some if self.remove(stored)]
        gone = {stored.path for stored in removed}
        # Work that a process was at may have ended meanwhile.
        kept = [stored for stored in some if stored.path not in gone and not _is_held(stored.path)]
        late = [stored for stored in kept if self.remove(stored)]
        removed += late
        if len(late) < len(kept):
            raise InputError(
                f"{len(kept) - len(late)} of {len(some)} entries in {self.folder} cannot be removed; check its "
                "permissions, and that its disk can be written."
            )
        return len(removed), sum(stored.bytes for stored in removed)

    def sweep(self) -> None:
        """Remove half-written files whose process has ended, and folders of work of which nothing was stored."""
        sweep_folder(self.folder)
        entries = self.folder / "entries"
        if not entries.is_symlink():
            sweep_folder(entries)
        for path, status in _files(entries):
            if _TEMPORARY.fullmatch(path.name) and status.st_mtime < time.time() - _OLD_SECONDS:
                remove_file(path)
        for path, status in _files(self.folder / "runs", folders=True):
            # A process makes the folder a moment before it locks it.
            is_old = status.st_mtime < time.time() - _NEW_SECONDS
            if is_old and _NAME.fullmatch(path.name) and _is_empty(_files(path)):
                remove_run(path)


def write_whole(path: Path, arrays: Arrays, record: Any, name: str = "", model: str = "") -> int:
    """Write an entry's file so that it appears whole or not at all; returns its bytes.

    Nothing waits for the disk: a file that a power cut leaves incomplete is noticed by its checksum.

    Args:
        path: the file.
        arrays: as in ``write_entry``.
        record: JSON values.
        name: kind and key of the entry.
        model: label of the model that it is about.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    with temporary_file(path.parent) as temporary:
        size = write_entry(temporary, arrays, record, name, model)
        os.replace(temporary, path)
    return size


def remove_file(path: Path) -> bool:
    """Remove a file; True when it is gone, whoever removed it."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def remove_run(path: Path) -> bool:
    """Remove a folder of unfinished work unless a process is at it; True when it is gone."""
    if path.is_symlink():
        return False
    lock = FileLock(path / LOCK)
    try:
        if not lock.acquire():
            return False
    except OSError:
        return not path.exists()
    try:
        shutil.rmtree(path, ignore_errors=True)
    finally:
        lock.release()
    if path.exists():  # where the file of a lock that is held cannot be removed
        shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _is_held(path: Path) -> bool:
    """A process is at the work of this folder."""
    lock = FileLock(path / LOCK)
    try:
        held = not lock.acquire()
    except OSError:
        return False
    lock.release()
    return held


def _is_empty(files: Iterable[tuple[Path, os.stat_result]]) -> bool:
    """True if there is nothing but the lock of a run."""
    return all(path.name == LOCK for path, _ in files)


def _files(folder: Path, *, folders: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
    """The user's own files in a folder, or folders in it, with their status; none of a missing folder or a link."""
    wanted = stat.S_ISDIR if folders else stat.S_ISREG
    try:
        paths = [] if folder.is_symlink() else list(folder.iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if wanted(status.st_mode) and is_owned(status):
                yield path, status
