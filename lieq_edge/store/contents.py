"""The folder of a cache: what lies in it, how it is written, and what goes when it becomes too large.

``entries/`` holds finished results, one file each; ``runs/`` holds a folder for each piece of unfinished work, locked
while a process is at it. Several processes use a folder at once: files appear whole by a rename, and whatever is gone
by the time it is looked at was removed by another process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.files import process_ended, process_mark
from .entry import Arrays, write_entry
from .lock import FileLock

SUFFIX = ".safetensors"
LOCK = "lock"
LASTING = ("hessians",)
"""Kinds of work whose folders stay when it is done."""

_NAME = re.compile(r"(?P<kind>[a-z-]+)\.(?P<key>[0-9a-f]{64})")
# Files in writing are named after their process.
_TEMPORARY = re.compile(r"\.(?P<mark>[0-9a-f]+-[0-9]+)\..*\.tmp")
_OLD_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Stored:
    """Something in a cache.

    Attributes:
        path: of the entry's file, or of the folder of unfinished work.
        kind: of result.
        key: of it.
        bytes: that it takes.
        used: when it was last written or read, seconds since 1970.
        unfinished: it is of unfinished work.
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
        """Of ``folder``, which need not be there."""
        self.folder = folder

    def entry_path(self, kind: str, key: str) -> Path:
        """Where the entry is, if it is there."""
        return self.folder / "entries" / f"{kind}.{key}{SUFFIX}"

    def run_path(self, kind: str, key: str) -> Path:
        """Where the unfinished work is, if there is any."""
        return self.folder / "runs" / f"{kind}.{key}"

    def contents(self) -> list[Stored]:
        """All entries and unfinished work, the longest unused first.

        Raises:
            OSError: the folder is there and cannot be read.
        """
        found = [*self._entries(), *self._runs()]
        return sorted(found, key=lambda stored: (stored.used, stored.path.name))

    def _entries(self) -> Iterator[Stored]:
        for path, status in _files(self.folder / "entries"):
            match = _NAME.fullmatch(path.name.removesuffix(SUFFIX))
            if match and path.suffix == SUFFIX:
                yield Stored(path, match["kind"], match["key"], status.st_size, status.st_mtime)

    def _runs(self) -> Iterator[Stored]:
        for path, status in _files(self.folder / "runs", folders=True):
            match = _NAME.fullmatch(path.name)
            if match:
                parts = [part for _, part in _files(path)]
                used = max([status.st_mtime, *(part.st_mtime for part in parts)])
                size, unfinished = sum(part.st_size for part in parts), match["kind"] not in LASTING
                yield Stored(path, match["kind"], match["key"], size, used, unfinished)

    def remove(self, stored: Stored) -> bool:
        """Remove it; False when it is in use or cannot be removed. What is gone already counts as removed."""
        return remove_run(stored.path) if stored.path.is_dir() else remove_file(stored.path)

    def evict(self, limit: int, keep: Collection[Path] = ()) -> int:
        """Remove what was longest unused until the rest takes at most ``limit`` bytes; returns what it takes.

        Args:
            limit: in bytes.
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

    def clear(self) -> tuple[int, int]:
        """Remove everything that no process is at; how many things and bytes that were.

        Raises:
            OSError: the folder cannot be read.
        """
        self.sweep()
        removed = [stored for stored in self.contents() if self.remove(stored)]
        return len(removed), sum(stored.bytes for stored in removed)

    def sweep(self) -> None:
        """Remove half-written files whose process has ended."""
        for path, status in _files(self.folder / "entries"):
            match = _TEMPORARY.fullmatch(path.name)
            if match and (process_ended(match["mark"]) or status.st_mtime < time.time() - _OLD_SECONDS):
                remove_file(path)


def write_whole(path: Path, arrays: Arrays, record: Any) -> int:
    """Write an entry's file so that it appears whole or not at all; returns its bytes.

    No fsync: a file that a power cut leaves incomplete is found by its checksum.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    handle, name = tempfile.mkstemp(prefix=f".{process_mark()}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        size = write_entry(temporary, arrays, record)
        os.replace(temporary, path)
    except BaseException:
        remove_file(temporary)
        raise
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
    return not path.exists()


def _files(folder: Path, *, folders: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of a folder, or the folders in it, with what the system says of them; none of a missing folder."""
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if path.is_dir() == folders:
                yield path, status
