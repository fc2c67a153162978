"""Sizes and ages, for people."""

from __future__ import annotations

_UNITS = ((1e9, "GB", 2), (1e6, "MB", 1), (1e3, "kB", 1))
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
