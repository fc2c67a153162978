"""The roundings, by name. A new one is a file beside this one and a line in the table."""

from __future__ import annotations

from .base import Rounder
from .importance import Importance
from .independent import Independent
from .nearest import Nearest
from .sequential import Sequential

_ROUNDERS: tuple[type[Rounder], ...] = (Nearest, Importance, Sequential, Independent)

ROUNDERS: dict[str, Rounder] = {kind.name: kind() for kind in _ROUNDERS}
"""Every rounding, by the value of ``--rounding``."""
