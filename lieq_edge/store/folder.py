"""Where the cache is, and how large it may become."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path

from ..errors import InputError

DEFAULT_LIMIT = 10_000_000_000
"""Bytes that the cache takes at most, unless told."""

VARIABLE = "LIEQ_CACHE_DIR"

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]+)\s*", re.IGNORECASE)


def default_folder() -> Path:
    """``LIEQ_CACHE_DIR``, or the folder that the platform has for what programs can make again.

    Raises:
        InputError: the user has no home folder.
    """
    told = os.environ.get(VARIABLE)
    if told:
        return Path(told).expanduser()
    try:
        return _platform_folder()
    except RuntimeError as error:
        raise InputError(f"There is no home folder to keep a cache in; pass --cache-dir or set {VARIABLE}.") from error


def _platform_folder() -> Path:
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "lieq-edge" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lieq-edge"
    # The XDG specification has relative paths ignored.
    told = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(told) if os.path.isabs(told) else Path.home() / ".cache") / "lieq-edge"


def parse_size(text: str) -> int:
    """Bytes of ``10GB``, ``500MB``, ``8GiB`` and the like.

    Raises:
        InputError: the text is no size.
    """
    match = _SIZE.fullmatch(text)
    if match and match[2].lower() in _UNITS:
        size = float(match[1]) * _UNITS[match[2].lower()]
        if math.isfinite(size):
            return int(size)
    raise InputError(f"The cache limit {text!r} is not understood; write 10GB or 500MB.")
