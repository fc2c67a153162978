"""A file that is compared with what was written to it before anybody relies on it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from pathlib import Path
from types import TracebackType

_BUFFER = 1 << 18


class CheckedFile:
    """A binary file to write; use it in a ``with`` block.

    The result of every write is looked at, and at the end of the block the file is flushed to the disk, read back and
    compared by size and SHA-256. Libraries that write by themselves are not to be trusted with that: numpy's
    ``tofile`` drops the errors of its last write.

    Attributes:
        size: bytes written so far.
        sha256: digest (hex) of what was written; known when the block has ended.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` for writing; what it held is gone.

        Raises:
            OSError: it cannot be opened.
        """
        self.size = 0
        self.sha256 = ""
        self._path = path
        self._digest = hashlib.sha256()
        self._file = io.BufferedWriter(_open_raw(path), _BUFFER)

    def write(self, content: bytes | memoryview) -> int:
        """Append ``content``; returns its bytes.

        Raises:
            OSError: not all of it was written.
        """
        view = memoryview(content)
        count = self._file.write(view)
        if count != view.nbytes:
            raise OSError(errno.EIO, f"{view.nbytes - count} of {view.nbytes} bytes were not written")
        self._digest.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def __enter__(self) -> CheckedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # The first error says more than what it leads to.
            with contextlib.suppress(OSError):
                self._file.close()
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
        self.sha256 = self._digest.hexdigest()
        check_content(self._path, self.size, self.sha256)


def check_content(path: Path, size: int, sha256: str) -> None:
    """Read a file and compare it.

    Raises:
        OSError: it cannot be read, or is not ``size`` bytes with this SHA-256 (hex).
    """
    actual = path.stat().st_size
    if actual != size:
        raise OSError(errno.EIO, f"the file has {actual} bytes instead of {size}")
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_BUFFER))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    if digest.hexdigest() != sha256:
        raise OSError(errno.EIO, "the file holds other bytes than were written")


def sync_file(path: Path) -> None:
    """Wait until the content of a file that another library wrote is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk, where the platform can do that."""
    flags = getattr(os, "O_DIRECTORY", None)
    if flags is None:
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | flags)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _open_raw(path: Path) -> io.RawIOBase:
    return path.open("wb", buffering=0)
