"""Outputs that appear whole or not at all, texts, and checks that must come before long work."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it onto ``path`` on success, remove it otherwise."""
    handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; an output gets the mode that any new file of this user has.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    """How the name of the temporary file of ``path`` begins: hidden, and recognisable."""
    return f".{path.name}.{process_mark()}."


def process_mark() -> str:
    """This machine and this process, for the names of what must not stay when the process is killed."""
    return f"{_machine_mark()}-{os.getpid()}"


def process_ended(mark: str) -> bool:
    """True when ``mark`` is of this machine and its process has ended; of other machines nothing is known."""
    import psutil

    machine, _, process = mark.partition("-")
    return machine == _machine_mark() and process.isdigit() and not psutil.pid_exists(int(process))


@functools.cache
def _machine_mark() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def sweep(path: Path) -> None:
    """Remove what killed processes have left beside an output: half of it, and ``temporary_folder``s."""
    pattern = re.compile(rf"\.(?:{re.escape(path.name)}|lieq)\.([0-9a-f]+-[0-9]+)\..*")
    for found in path.parent.iterdir():
        match = pattern.fullmatch(found.name)
        if match and process_ended(match[1]):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    found.unlink()


def temporary_folder(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for what is large and needed for a while only, beside an output because there is room for it."""
    return tempfile.TemporaryDirectory(prefix=f".lieq.{process_mark()}.", dir=parent)


def check_output(path: Path, *, force: bool) -> None:
    """Refuse an output path that cannot be written, before any time is spent.

    Raises:
        InputError: the folder is missing or read-only, ``path`` is a folder or a device or has too long a name, or
            it exists and not ``force``.
    """
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist; create it or choose another output path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of the file to write.")
    if path.exists() and not path.is_file():
        # The finished file is renamed onto the path, which would take the place of e.g. /dev/null.
        raise InputError(f"{path} is no ordinary file; give the path of the file to write.")
    if path.exists() and not force:
        raise InputError(f"{path} exists; pass --force to replace it.")
    try:
        with tempfile.NamedTemporaryFile(prefix=_prefix(path), suffix=".tmp", dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another output path.") from error


def read_text(path: Path, what: str) -> str:
    """The UTF-8 text of ``path``; ``what`` names it in messages, e.g. ``the recipe``.

    Raises:
        InputError: it is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot read {what} {path} ({error.strerror}); check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); convert it, or check the path.") from error


def check_space(folder: Path, needed: int) -> None:
    """Raise InputError when the disk of ``folder`` has fewer than ``needed`` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"The disk of {folder} has {free / 1e6:,.0f} MB free and {needed / 1e6:,.0f} MB are needed; "
            "free some space or write elsewhere."
        )
