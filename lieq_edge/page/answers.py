"""Prompts that the original and a file answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """A prompt, and what was answered.

    Attributes:
        prompt: text of the user.
        original: answer of the unquantised model.
        file: answer of the written file.
        name: name of the file, where a page has several.
    """

    prompt: str
    original: str
    file: str
    name: str = ""
