"""Unpacked quantised rows: integer codes, and the scales and mins that give them meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .bits import Codes
from .layouts import LAYOUTS, Layout

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Grid:
    """The fields of rows stored in one ggml type.

    Attributes:
        type_name: ggml's name.
        codes: uint8 ``(rows, columns)``, indices into the layout's levels.
        d: scales of blocks or super-blocks, float16 ``(rows, blocks)``.
        m: mins of blocks or super-blocks, like ``d``; None for types without mins.
        scale_codes: integer scales, int16 ``(rows, sub-blocks)``; None if a block is a single sub-block.
        min_codes: integer mins, like ``scale_codes``; None for types without them.
    """

    type_name: str
    codes: npt.NDArray[np.uint8]
    d: Halves
    m: Halves | None = None
    scale_codes: Codes | None = None
    min_codes: Codes | None = None

    @property
    def layout(self) -> Layout:
        """The type's block layout."""
        return LAYOUTS[self.type_name]

    def scales(self) -> Floats:
        """Effective scale of each sub-block, float32 ``(rows, sub-blocks)``, rounded as in ggml's decoder."""
        return _effective(self.d, self.scale_codes)

    def mins(self) -> Floats | None:
        """Effective min of each sub-block, to be subtracted, like ``scales``; None for types without mins."""
        if self.m is None:
            return None
        return _effective(self.m, self.min_codes) * np.float32(self.layout.min_sign)

    def values(self) -> Floats:
        """The weights, float32 ``(rows, columns)``, bit for bit as from ``gguf.quants.dequantize``."""
        rows, columns = self.codes.shape
        levels = np.array(self.layout.levels, np.float32)
        values = levels[self.codes].reshape(rows, -1, self.layout.sub)
        values *= self.scales()[:, :, None]
        mins = self.mins()
        if mins is not None:
            values -= mins[:, :, None]
        return values.reshape(rows, columns)

    @classmethod
    def join(cls, parts: Sequence[Grid]) -> Grid:
        """Grids of neighbouring columns, side by side."""

        def side_by_side(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else np.concatenate(values, axis=1)

        first, *others = (field.name for field in fields(cls))
        return cls(getattr(parts[0], first), *map(side_by_side, others))

    def with_codes(self, codes: npt.NDArray[np.uint8]) -> Grid:
        """The same scales with other codes."""
        return replace(self, codes=codes)


def _effective(base: Halves, factors: Codes | None) -> Floats:
    """Float32 products of each block's scale or min and the integers of its sub-blocks."""
    if factors is None:
        return base.astype(np.float32)
    per_block = factors.shape[1] // base.shape[1]
    return np.repeat(base.astype(np.float32), per_block, axis=1) * factors.astype(np.float32)
