"""Sizes and ages, for people."""

from __future__ import annotations

import math
import re

from ..errors import InputError

_UNITS = ((1e9, "GB", 2), (1e6, "MB", 1), (1e3, "kB", 1))
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]+)\s*", re.IGNORECASE)
_PERIODS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"))


def size_text(count: float) -> str:
    """Bytes as ``3.20 GB``, ``90.0 MB``, ``1.5 kB`` or ``12 bytes``."""
    for unit, name, digits in _UNITS:
        if count >= 0.99995 * unit:  # less would be shown as 1000 of the smaller unit
            return f"{count / unit:.{digits}f} {name}"
    return f"{count:.0f} bytes"


def age_text(seconds: float) -> str:
    """Time since something as ``3 days ago``; what lies less than a minute back, or ahead, is ``just now``."""
    for period, name in _PERIODS:
        if seconds >= period:
            count = int(seconds // period)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def parse_bytes(text: str, name: str) -> int:
    """Bytes of ``10GB``, ``500MB``, ``8GiB`` and the like.

    Args:
        text: text of the user.
        name: what messages call it, e.g. ``--memory``.

    Raises:
        InputError: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    if match and match[2].lower() in _BYTES:
        size = float(match[1]) * _BYTES[match[2].lower()]
        if math.isfinite(size):
            return int(size)
    raise InputError(f"{name} {text!r} is not understood; write 10GB or 500MB.")
