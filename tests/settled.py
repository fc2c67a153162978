"""The tokenizer of a directory, settled, and the key-values that a source has for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lieq_edge.sources import Source
from lieq_edge.sources.tokenizers.tokenizer import key_values, read_pieces
from lieq_edge.sources.tokenizers.trial import Trial, settle


def values(source: Source) -> dict[str, Any]:
    return {kv.key.removeprefix("tokenizer."): kv.value for kv in source.metadata()}


def settled(directory: Path, rows: int = 512) -> Trial:
    pieces = read_pieces(directory, rows)
    return settle(pieces, key_values(directory, pieces), "llama", "model")


def notes(opened: Source | Trial) -> list[str]:
    """The notes, but for those about ends that only llama.cpp knows: every tiny tokenizer has some."""
    return [note for note in opened.warnings if "whatever a file says" not in note and "file ends a reply" not in note]
