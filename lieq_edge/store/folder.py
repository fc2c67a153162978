"""Where the cache is, who may use it, and how large it may become."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import stat
import sys
from pathlib import Path

import platformdirs

from ..errors import InputError
from ..system.files import user_path
from ..system.temporary import is_owned
from ..system.units import parse_bytes

DEFAULT_LIMIT = 10_000_000_000
"""Bytes that the cache takes at most, unless the user chooses a limit."""

VARIABLE = "LIEQ_CACHE_DIR"
CODE_FILE = "code.safetensors"

_INSIDE = ("entries", "runs", CODE_FILE)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([smhdw])\s*", re.IGNORECASE)


def default_folder() -> Path:
    """``LIEQ_CACHE_DIR``, or the platform's folder for files that programs can make again.

    Raises:
        InputError: the user has no home folder.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return user_path(chosen)
    try:
        folder = platformdirs.user_cache_path("lieq-edge", appauthor=False)
        # The XDG specification has relative paths ignored.
        return folder if folder.is_absolute() else Path.home() / ".cache" / "lieq-edge"
    except RuntimeError as error:
        raise InputError(f"There is no home folder to keep a cache in; pass --cache-dir or set {VARIABLE}.") from error


def refusal(folder: Path) -> str | None:
    """The reason not to use a folder as a cache: others could plant results in it. None when it can be used.

    A folder of this user's that others can only read is closed to them, unless it holds anything else.
    """
    if sys.platform == "win32":
        return None  # a user's folders are closed to others there
    try:
        link, status = folder.lstat(), folder.stat()
    except OSError:
        return None  # it is made later, or that fails with a reason of its own
    if not stat.S_ISDIR(status.st_mode):
        return None
    if not is_owned(status) or not (is_owned(link) or link.st_uid == 0):
        return "it belongs to another user"
    if status.st_mode & 0o022:
        return "other users can write to it (chmod 700 closes it)"
    if status.st_mode & 0o077:
        with contextlib.suppress(OSError):  # nothing can be planted in it either way
            if any(name not in _INSIDE and not name.startswith(".lieq-") for name in os.listdir(folder)):
                return "other users can read it and it holds other files; give the cache a folder of its own"
            folder.chmod(0o700)
    return None


def prepare(folder: Path, *inside: str) -> Path:
    """Make a cache folder, and a folder in it, for this user alone.

    Args:
        folder: the cache.
        inside: names of the folder in it and those above it.

    Raises:
        OSError: it cannot be made, the cache is refused, or one of them is a link.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    reason = refusal(folder)
    if reason is not None:
        raise PermissionError(errno.EPERM, reason)
    for name in inside:
        folder = folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        check_folder(folder)
    return folder


def check_folder(folder: Path) -> None:
    """Make sure that a folder within a cache is one, and is this user's.

    Raises:
        OSError: it is a link or another user's, or it is not there.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{folder.name} in it is not a folder")
    if not is_owned(status):
        raise PermissionError(errno.EPERM, f"{folder.name} in it belongs to another user")


def parse_size(text: str) -> int:
    """Bytes of ``10GB``, ``500MB``, ``8GiB`` and the like.

    Raises:
        InputError: the text is not a size.
    """
    return parse_bytes(text, "The cache limit")


def parse_age(text: str) -> float:
    """Seconds of ``30d``, ``12h``, ``2w`` and the like.

    Raises:
        InputError: the text is not an age.
    """
    match = _AGE.fullmatch(text)
    if match and math.isfinite(seconds := float(match[1]) * _SECONDS[match[2].lower()]):
        return seconds
    raise InputError(f"The age {text!r} is not understood; write 30d, 12h or 2w.")
