"""Attacks that once succeeded, by name: a tester's list of what must not come back."""

from __future__ import annotations

from attack import known_files, known_inputs, known_system
from attack.listed import KNOWN

MODULES = (known_files, known_inputs, known_system)
"""Modules that have added to the list."""

__all__ = ["KNOWN", "MODULES"]
