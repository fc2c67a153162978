"""Checks of a GGUF file before llama.cpp loads it: reasons that llama.cpp gives worse, or by ending its process."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..gguf.header import UnreadableError, learned_positions
from ..gguf.splits import read_model
from ..gguf.vocabulary_check import check_vocabulary


def check_file(path: Path, label: str, *, tokenizer: bool = True) -> None:
    """Refuse a path that is no file, a file that is cut off, missing parts, and a damaged tokenizer.

    Args:
        path: the file, or the first of several parts.
        label: what messages call it.
        tokenizer: the file has to have a tokenizer.

    Raises:
        InputError: llama.cpp could not load it.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {state}; give the path of a GGUF file.")
    if tokenizer:
        try:
            header = read_model(path).header
        except UnreadableError:
            raise
        except InputError:
            return  # llama.cpp may read it, and says what is wrong otherwise
        check_vocabulary(header.get, label)


def check_positions(path: Path, label: str, tokens: int, remedy: str) -> None:
    """Refuse more tokens than the model has learned positions for: ggml ends its process past the end of their table.

    Args:
        path: the file, or the first of several parts.
        label: what messages call it.
        tokens: tokens of a window.
        remedy: what the user may do, the end of the message.

    Raises:
        InputError: there are fewer positions.
    """
    limit = learned_positions({tensor.name: tensor.shape for tensor in read_model(path).header.tensors})
    if limit is not None and tokens > limit:
        raise InputError(f"{label} has positions for {limit} tokens only; {remedy}.")
