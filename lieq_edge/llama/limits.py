"""How long llama.cpp may take for a piece of work before it counts as hung.

Each limit is many times the time that a slow laptop under load needs.
"""

from __future__ import annotations

import re
from pathlib import Path

LOAD_SECONDS = 120.0
"""For a file without weights, or of which only the tokenizer is loaded."""
TEXT_SECONDS = 60.0
"""For a short text to be cut into tokens."""
RUN_SECONDS = 300.0
"""For a few tokens through a small model."""

_LOADED_BYTES = 1e7  # a second, from a slow network disk
_TEXT_CHARACTERS = 2e4  # a second
_RUN_BYTES = 1e8  # bytes of weights times tokens a second
_QUANTIZED_BYTES = 1e5  # of the original a second, with the slowest of types


def load_seconds(path: Path) -> float:
    """Limit for a model with its weights."""
    return LOAD_SECONDS + _model_bytes(path) / _LOADED_BYTES


def text_seconds(characters: int) -> float:
    """Limit for texts of so many characters together."""
    return TEXT_SECONDS + characters / _TEXT_CHARACTERS


def run_seconds(path: Path, tokens: int) -> float:
    """Limit for so many tokens through a model."""
    return RUN_SECONDS + _model_bytes(path) * tokens / _RUN_BYTES


def quantize_seconds(path: Path) -> float:
    """Limit for a tensor of a model to be quantised."""
    return RUN_SECONDS + _model_bytes(path) / _QUANTIZED_BYTES


def _model_bytes(path: Path) -> int:
    """Size of a file, or about that of a model in several parts."""
    parts = re.search(r"-of-(\d{5})\.gguf$", path.name)
    return path.stat().st_size * (int(parts[1]) if parts else 1)
