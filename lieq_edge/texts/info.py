"""Token windows, and the record of the text that they were cut from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

Windows = npt.NDArray[np.int64]
"""Token ids ``(n, T)``, in NumPy so that texts do not need PyTorch."""


@dataclass(frozen=True)
class TextInfo:
    """A text that was used to measure.

    Attributes:
        name: name of the text, for people.
        sha256: SHA-256 (hex) of the UTF-8 text.
        tokens: number of its tokens that were used.
    """

    name: str
    sha256: str
    tokens: Annotated[int, Field(ge=0, le=2**32 - 1)]

    @classmethod
    def of(cls, name: str, text: str, tokens: int) -> TextInfo:
        """The record of ``text``."""
        return cls(name, hashlib.sha256(text.encode("utf-8")).hexdigest(), tokens)
