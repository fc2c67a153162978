"""Requests for measurements of the loss. Needs no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ...texts.windows import Windows

ROWS, FEW_ROWS = 64, 32
"""Rows of a block's matrix that are rounded to predict its losses, and those where time matters more."""


class Follow(Enum):
    """Evidence that rounding needs beside the loss weights."""

    NOTHING = "nothing"
    STREAM = "residual stream"
    """The original's residual stream: each block is measured behind the rounded ones before it."""
    HESSIANS = "hessians"
    """H of the inputs of the original's matrices: no model is run to round."""


@dataclass(frozen=True)
class LossRequest:
    """Measurements of the loss to make.

    Attributes:
        windows: token ids of the calibration text, ``(n, T)``.
        seed: seed of the sampled labels.
        blocks: candidate types of the block matrices whose losses are to be predicted, by GGUF name.
        outer: candidate types of embedding and head, by GGUF name.
        follow: evidence that rounding needs beside the loss weights.
        weighted: True weights rounding without feedback by importance.
        rows: rows of a block's matrix that are rounded to predict its losses; experts have their own number.
    """

    windows: Windows
    seed: int
    blocks: Mapping[str, Sequence[str]]
    outer: Mapping[str, Sequence[str]]
    follow: Follow = Follow.NOTHING
    weighted: bool = True
    rows: int = ROWS

    @property
    def text_parts(self) -> dict[str, Any]:
        """Everything that loss weights and Hessians depend on beside the model."""
        return {"tokens": self.windows, "seed": self.seed}

    @property
    def prediction_parts(self) -> dict[str, Any]:
        """Everything that predicted losses of block matrices depend on beside the model."""
        types = {name: list(names) for name, names in self.blocks.items()}
        whole = self.follow is Follow.HESSIANS
        sampled = {"weighted": self.weighted, "rows": self.rows}
        return {**self.text_parts, "candidates": types, "hessians": whole, **sampled}
