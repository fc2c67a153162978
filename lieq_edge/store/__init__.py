"""Store what was measured of a model, so that it is measured once, and unfinished work, so that it can resume.

Everything is looked up by what it was made from (``keys``), never by name or date. What is damaged, missing or cannot
be written costs time and nothing else.
"""

from __future__ import annotations

from .cache import NO_CACHE, Cache, FolderCache, NoCache, open_cache
from .contents import Store, Stored
from .entry import Entry
from .folder import DEFAULT_LIMIT, default_folder, parse_age, parse_size
from .run import Guard, Run
from .steps import Steps

__all__ = [
    "DEFAULT_LIMIT",
    "NO_CACHE",
    "Cache",
    "Entry",
    "FolderCache",
    "Guard",
    "NoCache",
    "Run",
    "Steps",
    "Store",
    "Stored",
    "default_folder",
    "open_cache",
    "parse_age",
    "parse_size",
]
