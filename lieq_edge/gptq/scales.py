"""Scales and mins of rows during rounding, and the neighbours of each that a search tries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..gguf.blocks import Grid, Layout
from .kernel import neighbours, take_picked

# Steps around the first scale and min. An integer is a step of the stored integer, a fraction a share of it (at least
# 1). For types without stored integers both are shares of d. Other types take _OTHER_STEPS.
_STEPS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "Q2_K": ((-1, 0, 1), (-2, -1, 0, 1, 2)),
    "Q3_K": ((-2, -1, 0, 1, 2), (0,)),
    "Q4_K": ((-0.08, -0.04, 0, 0.04, 0.08), (-0.04, 0, 0.04)),
    "Q5_K": ((-0.08, -0.04, 0, 0.04, 0.08), (-0.04, 0, 0.04)),
    "Q6_K": ((-0.06, -0.03, 0, 0.03, 0.06), (0,)),
    "Q4_1": ((-0.08, -0.04, 0, 0.04, 0.08), (-0.3, 0, 0.3)),
    "Q5_1": ((-0.08, -0.04, 0, 0.04, 0.08), (-0.3, 0, 0.3)),
    # Their integers are odd.
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), ((-4, -2, 0, 2, 4), (0,))),
}
_OTHER_STEPS: tuple[tuple[float, ...], tuple[float, ...]] = ((-0.08, -0.04, 0, 0.04, 0.08), (0,))


@dataclass(frozen=True)
class Candidates:
    """Scales (and mins) to choose from for one sub-block, each ``(candidates, rows)``.

    Attributes:
        scales, mins: effective values; ``mins`` None for types without mins.
        stored_scales, stored_mins: the same as stored in the block.
    """

    scales: torch.Tensor
    mins: torch.Tensor | None
    stored_scales: torch.Tensor
    stored_mins: torch.Tensor | None


@dataclass(frozen=True)
class Fields:
    """Scale fields of neighbouring columns; attributes as in ``Scales``."""

    d: torch.Tensor
    m: torch.Tensor | None
    scale_codes: torch.Tensor | None
    min_codes: torch.Tensor | None

    @classmethod
    def of(cls, grid: Grid) -> Fields:
        """The fields of rows in ggml's order."""

        def columns_first(field: npt.NDArray | None) -> torch.Tensor | None:
            return torch.from_numpy(field.astype(np.float32)).T if field is not None else None

        d, *others = (columns_first(field) for field in (grid.d, grid.m, grid.scale_codes, grid.min_codes))
        assert d is not None
        return cls(d, *others)


class Scales:
    """The scale fields of all blocks of some rows, columns first, as float32 tensors of exact values.

    Attributes:
        d, m: scales and mins of blocks, ``(blocks, rows)``; ``m`` None for types without mins.
        scale_codes, min_codes: stored integers, ``(sub-blocks, rows)``; None for types without them.
    """

    def __init__(self, layout: Layout, rows: int, columns: int) -> None:
        blocks, subs = columns // layout.block, columns // layout.sub
        self.layout = layout
        self.d = torch.zeros(blocks, rows)
        self.m = torch.zeros(blocks, rows) if layout.m is not None else None
        self.scale_codes = torch.zeros(subs, rows) if layout.scales is not None else None
        has_min_codes = layout.scales is not None and layout.m is not None
        self.min_codes = torch.zeros(subs, rows) if has_min_codes else None
        scale_steps, min_steps = _STEPS.get(layout.type_name, _OTHER_STEPS)
        self._wide = _pairs(scale_steps, min_steps)
        self._near = _pairs(_nearest(scale_steps), _nearest(min_steps))

    def fill(self, fields: Fields, column: int) -> None:
        """Copy the fields of neighbouring columns that start at ``column``."""
        for target, values, width in (
            (self.d, fields.d, self.layout.block),
            (self.m, fields.m, self.layout.block),
            (self.scale_codes, fields.scale_codes, self.layout.sub),
            (self.min_codes, fields.min_codes, self.layout.sub),
        ):
            if target is not None and values is not None:
                start = column // width
                target[start : start + len(values)] = values

    def candidates(self, sub: int, *, search: bool, near: bool = False) -> Candidates:
        """Scales and mins to try for one sub-block.

        Args:
            sub: index of the sub-block.
            search: try neighbours of the current scale; False tries the current one only.
            near: try only one neighbour on either side.
        """
        layout = self.layout
        scale_steps, min_steps = self._near if near else self._wide
        if not search:
            scale_steps = min_steps = torch.zeros(1, 1)
        block = sub * layout.sub // layout.block
        d, m = self.d[block], self.m[block] if self.m is not None else None
        if self.scale_codes is None:
            stored = half(d * (1 + scale_steps))
            if m is None:
                return Candidates(stored, None, stored, None)
            stored_mins = half(m + d * min_steps)
            return Candidates(stored, stored_mins * layout.min_sign, stored, stored_mins)
        codes, scales = self._neighbours(self.scale_codes[sub], scale_steps, d)
        if self.min_codes is None or m is None:
            return Candidates(scales, None, codes, None)
        min_codes, mins = self._neighbours(self.min_codes[sub], min_steps, m)
        return Candidates(scales, mins, codes, min_codes)

    def _neighbours(
        self, present: torch.Tensor, steps: torch.Tensor, unit: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers around ``present``, and their products with ``unit``, each ``(candidates, rows)``."""
        bits = self.layout.scales
        assert bits is not None
        stored, values = (torch.empty(len(steps), len(present)) for _ in range(2))
        neighbours(
            present.numpy(),
            steps[:, 0].numpy(),
            bits.lowest,
            bits.highest,
            unit.numpy(),
            stored.numpy(),
            values.numpy(),
        )
        return stored, values

    def take(self, sub: int, chosen: Candidates, pick: torch.Tensor, where: torch.Tensor | None = None) -> None:
        """Store candidates of one sub-block as its scales and mins.

        Args:
            sub: index of the sub-block.
            chosen: the candidates.
            pick: index of the candidate for each row, ``(rows,)``.
            where: rows to change, ``(rows,)``; None for all.
        """
        layout = self.layout
        if self.scale_codes is None:
            place = sub * layout.sub // layout.block
            fields = ((self.d, chosen.stored_scales), (self.m, chosen.stored_mins))
        else:
            place = sub
            fields = ((self.scale_codes, chosen.stored_scales), (self.min_codes, chosen.stored_mins))
        changed = where.numpy() if where is not None else np.ones(len(pick), np.bool_)
        for field, stored in fields:
            if field is not None and stored is not None:
                take_picked(stored.numpy(), pick.numpy(), changed, field[place].numpy())

    def grid(self, codes: torch.Tensor) -> Grid:
        """The finished rows with ``codes``, uint8 ``(columns, rows)``."""

        def rows_first(field: torch.Tensor | None, kind: type) -> npt.NDArray:
            return field.T.contiguous().numpy().astype(kind) if field is not None else None  # type: ignore[return-value]

        return Grid(
            self.layout.type_name,
            codes.T.contiguous().numpy(),
            rows_first(self.d, np.float16),
            rows_first(self.m, np.float16),
            rows_first(self.scale_codes, np.int16),
            rows_first(self.min_codes, np.int16),
        )


def _pairs(scale_steps: Sequence[float], min_steps: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.tensor([(a, b) for a in scale_steps for b in min_steps], dtype=torch.float32)
    return pairs[:, :1], pairs[:, 1:]


def _nearest(steps: Sequence[float]) -> tuple[float, ...]:
    """The step 0 and the smallest one up and down."""
    middle = steps.index(0)
    return tuple(steps[max(middle - 1, 0) : middle + 2])


def half(values: torch.Tensor) -> torch.Tensor:
    """``values`` rounded to float16, as float32."""
    return values.half().float()
