"""Entry point of the process that reads a tokenizer (``apart`` is the other end)."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...system.worker import Worker, end_with_parent

# transformers would import PyTorch, which takes longer than all the rest and which no tokenizer needs.
sys.modules.setdefault("torch", None)  # type: ignore[arg-type]


def main(_: object) -> None:
    """Serve the parent process."""
    end_with_parent()
    worker = Worker()
    import_libraries()
    worker.serve({"settle": _settle})


def import_libraries() -> None:
    """Import what takes long, before the limits of a tokenizer count."""
    import jinja2  # noqa: F401
    import transformers

    from . import tokenizer, trial  # noqa: F401

    for name in ("AutoTokenizer", "CONFIG_MAPPING", "PretrainedConfig"):
        getattr(transformers, name)


def _settle(
    _: Worker, current: str, directory: str, rows: int, architecture: str, label: str, name: str, temporary: str
) -> Any:
    """The record of ``apart.settle_apart``; temporary files lie in a folder that the parent removes."""
    from ..checks import sensible
    from .tokenizer import key_values, read_pieces
    from .trial import settle, to_entry

    os.chdir(current)  # the parent may have changed its own since this process began
    tempfile.tempdir = temporary
    path = Path(directory)
    with sensible(f"The tokenizer files of {label}"):
        pieces = read_pieces(path, rows)
        return to_entry(settle(pieces, key_values(path, pieces), architecture, label, name=name)).record
