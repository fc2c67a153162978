"""One row of a comparison of files."""

from __future__ import annotations

from dataclasses import dataclass

from .perplexity import Validation


@dataclass(frozen=True)
class ScoredFile:
    """A file, and what it was measured to be worth.

    Attributes:
        name: name for people: a path, or the name of a preset such as ``Q4_K_M``.
        file_bytes: size of the file.
        validation: perplexity of the file, and its distance from the original.
        prefill: tokens a second while a prompt is read; None where it was not measured.
        decode: tokens a second while text is written; None where it was not measured.
    """

    name: str
    file_bytes: int
    validation: Validation
    prefill: float | None = None
    decode: float | None = None
