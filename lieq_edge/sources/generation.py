"""``generation_config.json``, which a model does without: one that cannot be read counts as missing, with a note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from .plain_files import is_plain_file, read_plain

GENERATION_FILE = "generation_config.json"

# They have a few hundred bytes.
_MOST_BYTES = 1 << 20


def read_generation(directory: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The object in the file of a directory, and a note for the user.

    Args:
        directory: the model's.

    Returns:
        The object, None without a file that can be read; and why a file that is there was ignored, else None.
    """
    path = directory / GENERATION_FILE
    try:
        if not is_plain_file(path):
            return None, None
        content = read_plain(path, _MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            return None, _ignored(path, f"more than {_MOST_BYTES >> 20} MB")
        document = json.loads(content.decode("utf-8"))
    except (InputError, OSError, ValueError, RecursionError) as error:
        return None, _ignored(path, (str(error) or type(error).__name__).splitlines()[0][:200])
    if not isinstance(document, dict):
        return None, _ignored(path, "no JSON object")
    return document, None


def _ignored(path: Path, why: str) -> str:
    return f"{path} cannot be read ({why}) and is ignored; fetch it again if its settings are wanted."
