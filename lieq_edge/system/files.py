"""Outputs that appear whole or not at all, texts, and checks that must come before long work."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .checked import CheckedFile, sync_file, sync_folder
from .regular import read_regular
from .temporary import sweep_folder, temporary_file, temporary_folder
from .units import size_text

__all__ = [
    "CheckedFile",
    "atomic_path",
    "check_output",
    "check_space",
    "output_target",
    "read_text",
    "sweep",
    "temporary_file",
    "temporary_folder",
    "user_path",
    "write_output",
]

_MOST_LINKS = 40
_LARGEST_TEXT = 1 << 30


def user_path(path: str | Path) -> Path:
    """``path`` with a home folder in the place of ``~``; of an unknown user, as it is, as shells do."""
    return Path(os.path.expanduser(path))


@contextlib.contextmanager
def atomic_path(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary path beside an output; the finished file gets the output's name, an unfinished one is removed.

    The file is on the disk before it gets its name, so that a power cut leaves the old file or the new one. A link
    stays a link: the file that it leads to is replaced.

    Args:
        path: the output.
        replace: a file that is there at the end is replaced. Otherwise the finished file is stored beside it.

    Raises:
        InputError: ``path`` cannot be an output, or a file is there and not ``replace``.
    """
    target = output_target(path)
    with temporary_file(target.parent, mode=0o666) as temporary:
        yield temporary
        sync_file(temporary)
        if replace:
            _check_ordinary(path, target)
            os.replace(temporary, target)
        elif not _rename_new(temporary, target):
            beside = _rename_beside(temporary, target)
            raise InputError(
                f"{path} appeared while its new content was being made and was not replaced; the finished file is "
                f"{beside}."
            )
        sync_folder(target.parent)


def write_output(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write an output that fits in memory: checked, and whole or not at all.

    Args:
        path: the output.
        content: bytes of the file.
        replace: a file that is there is replaced.

    Raises:
        InputError: as in ``atomic_path``.
        OSError: the file cannot be written.
    """
    with atomic_path(path, replace=replace) as temporary, CheckedFile(temporary) as file:
        file.write(content)


def output_target(path: Path) -> Path:
    """The place that an output at ``path`` is written to: ``path`` itself, or what the link there leads to.

    Raises:
        InputError: links lead in a circle, or to a device or an open file of a process, e.g. ``/dev/stdout``.
    """
    place = path
    for _ in range(_MOST_LINKS):
        parent = os.path.realpath(place.parent)
        if parent == "/dev" or f"{parent}/".startswith(("/proc/", "/dev/fd/")):
            raise _not_ordinary(path)
        try:
            place = place.parent / os.readlink(place)
        except OSError:  # not a link, or not there
            return place
    raise InputError(f"The links at {path} lead in a circle; choose another output path.")


def sweep(path: Path) -> None:
    """Remove what killed processes of this user have left beside an output, and in the folder for temporary files."""
    sweep_folder(output_target(path).parent)
    sweep_folder(Path(tempfile.gettempdir()))


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output path that cannot be written, before any time is spent.

    Args:
        path: the output. A link is followed; the file that it leads to may be missing.
        force: an existing file is accepted.

    Raises:
        InputError: the folder is missing or read-only, ``path`` is a folder or a device or has too long a name, or
            it exists and not ``force``.
    """
    target = output_target(path)
    if not target.parent.is_dir():
        raise InputError(f"The folder {target.parent} does not exist; create it or choose another output path.")
    try:
        exists = _check_ordinary(path, target)
        if exists and not force:
            raise InputError(f"{path} exists; pass --force to replace it.")
        with temporary_file(target.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another output path.") from error


def read_text(path: Path, description: str) -> str:
    """The UTF-8 text of a file.

    Args:
        path: the file.
        description: its role in messages, e.g. ``the recipe``.

    Raises:
        InputError: it is missing, unreadable or not UTF-8.
    """
    try:
        return read_regular(path, _LARGEST_TEXT).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise InputError(f"Cannot read {description} {path} ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); convert it, or check the path.") from error


def check_space(folder: Path, needed: int) -> None:
    """Raise InputError when the disk of ``folder`` has fewer than ``needed`` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"The disk of {folder} has {size_text(free)} free and {size_text(needed)} are needed; "
            "free some space or write elsewhere."
        )


def _check_ordinary(path: Path, target: Path) -> bool:
    """True when a file is at ``target``; InputError when something else is."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder; give the path of the file to write.")
    if not stat.S_ISREG(mode):
        # A rename would put the finished file in its place.
        raise _not_ordinary(path)
    return True


def _not_ordinary(path: Path) -> InputError:
    return InputError(f"{path} is not an ordinary file; give the path of the file to write.")


def _rename_new(temporary: Path, target: Path) -> bool:
    """Rename a file to a name that is free; False when it is taken."""
    try:
        if sys.platform == "win32":
            temporary.rename(target)  # never replaces there
        else:
            os.link(temporary, target)
            temporary.unlink()
    except FileExistsError:
        return False
    except OSError:
        return _rename_claimed(temporary, target)
    return True


def _rename_claimed(temporary: Path, target: Path) -> bool:
    """``_rename_new`` on file systems without hard links: an empty file claims the name first."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        return False
    os.replace(temporary, target)
    return True


def _rename_beside(temporary: Path, target: Path) -> Path:
    """Store a finished file under the first free name like that of ``target``; returns its path."""
    number = 2
    while not _rename_new(temporary, beside := target.with_name(f"{target.stem}-{number}{target.suffix}")):
        number += 1
    return beside
