"""Small files of a model directory: regular ones only, because opening a pipe or a device may wait for ever."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import InputError

_POINTER, _POINTER_BYTES = b"version https://git-lfs", 1024


def is_plain_file(path: Path) -> bool:
    """Whether ``path`` is there as a file, or as a link to one.

    Raises:
        InputError: it is a pipe, a socket or a device, or stands for a file that Git has not fetched.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(status.st_mode):
        if status.st_size < _POINTER_BYTES and read_plain(path).startswith(_POINTER):
            raise InputError(f"{path} is a pointer of Git LFS instead of the file itself; run 'git lfs pull' there.")
        return True
    if stat.S_ISDIR(status.st_mode):
        return False
    raise InputError(f"{path} is not a regular file (a pipe, a socket or a device); give the model's own files.")


def read_plain(path: Path, most: int = -1) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        most: bytes to read at most, from its beginning; all of it when negative.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is not a regular file, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{path} is not a regular file; give the model's own files.")
            return file.read(most)
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "check its permissions" if isinstance(error, PermissionError) else "fetch it again"
        raise InputError(f"{path} cannot be read ({error.strerror}); {remedy}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is not a regular file, cannot be read, or does not hold an object.
    """
    try:
        document = json.loads(read_plain(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} does not hold a JSON object; fetch it again.")
    return document
