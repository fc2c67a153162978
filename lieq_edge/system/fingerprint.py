"""Notice that a file has changed since it was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Fingerprint:
    """What the system knows of a file and what changes when the file does.

    Attributes:
        device: number of the file system.
        inode: number of the file in it; a file that is replaced has another.
        size: bytes.
        mtime_ns: time of the last change of the content.
        ctime_ns: time of the last change of the content or of what the system notes; a program cannot set it back.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of the file that ``path`` leads to; links are followed.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return Fingerprint(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Fingerprints:
    """The files that a result depends on, as they were when they were read.

    ``remember`` a file before it is read or hashed, and ``check`` afterwards and before anything is stored that was
    computed from it.
    """

    def __init__(self) -> None:
        self._prints: dict[Path, Fingerprint] = {}

    def remember(self, path: Path) -> None:
        """Note the present fingerprint of a file, unless one was noted before.

        Raises:
            InputError: the file is missing.
        """
        place = path.absolute()
        if place in self._prints:
            return
        try:
            self._prints[place] = fingerprint(place)
        except OSError as error:
            raise InputError(f"Cannot read {path} ({error.strerror}); check the path.") from error

    def check(self) -> None:
        """Compare all files with what was noted.

        Raises:
            InputError: one of them has changed or is gone.
        """
        for path, noted in self._prints.items():
            try:
                same = fingerprint(path) == noted
            except OSError:
                same = False
            if not same:
                raise InputError(
                    f"{path} changed while lieq-edge was working on it, so nothing more was stored; run it again."
                )
