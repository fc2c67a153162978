"""A quantised matrix whose codes are fixed and whose scales are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..gguf.blocks import LAYOUTS, Grid, Layout, pack, unpack

# Weights that are decoded at a time, so that float32 copies stay small.
_PIECE = 1 << 20
_INTEGERS = ("scale_codes", "min_codes")


class ScaleFields:
    """Scales and mins of a matrix as trained numbers, and what a file stores of them.

    Each parameter is the change of a field in units in which steps of one size matter alike: scales and mins of
    super-blocks relative to their first value, the integers of sub-blocks relative to their root mean square. What a
    file stores as integers or in float16 is rounded in every forward pass, and gradients pass the rounding as if it
    were not there (straight-through).

    Attributes:
        parameters: changes by field: ``d``, ``m`` ``(rows, blocks)``, ``scale_codes``, ``min_codes`` ``(rows,
            sub-blocks)``.
    """

    def __init__(self, grid: Grid) -> None:
        self._layout = grid.layout
        self._first: dict[str, Tensor] = {}
        self._unit: dict[str, float] = {}
        self.parameters: dict[str, Tensor] = {}
        for name in ("d", "m", *_INTEGERS):
            values = getattr(grid, name)
            if values is None:
                continue
            first = torch.from_numpy(values.astype(np.float32))
            self._first[name] = first
            self._unit[name] = max(float(first.square().mean().sqrt()), 1.0) if name in _INTEGERS else 1.0
            self.parameters[name] = torch.zeros_like(first)

    def stored(self, name: str) -> Tensor | None:
        """A field as the file would have it, float32 of exact values; None if the type has no such field."""
        if name not in self.parameters:
            return None
        first, change = self._first[name], self.parameters[name]
        if name in _INTEGERS:
            bits = self._layout.scales
            assert bits is not None
            moved = first + change * self._unit[name]
            if bits.step > 1:
                moved.sub_(bits.lowest).div_(bits.step).round_().mul_(bits.step).add_(bits.lowest)
            return moved.round_().clamp_(bits.lowest, bits.highest)
        return (first * (1 + change)).half().float()

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Scale and min of each sub-block, float32 ``(rows, sub-blocks)``; a weight is ``scale * level - min``."""
        scales = _product(self.stored("d"), self.stored("scale_codes"))
        mins = _product(self.stored("m"), self.stored("min_codes"))
        assert scales is not None
        return scales, None if mins is None else mins * self._layout.min_sign

    def slopes(self, of_scales: Tensor, of_mins: Tensor | None) -> dict[str, Tensor]:
        """Gradients at ``parameters`` from those at ``effective``."""
        slopes = self._slopes("d", "scale_codes", of_scales)
        if of_mins is not None:
            slopes |= self._slopes("m", "min_codes", of_mins * self._layout.min_sign)
        return slopes

    def _slopes(self, base: str, integers: str, slope: Tensor) -> dict[str, Tensor]:
        blocks, codes = self.stored(base), self.stored(integers)
        assert blocks is not None
        if codes is None:
            return {base: slope * self._first[base]}
        shape = (*blocks.shape, -1)
        of_base = (slope * codes).view(shape).sum(-1) * self._first[base]
        of_codes = slope.view(shape) * (blocks * self._unit[integers])[:, :, None]
        return {base: of_base, integers: of_codes.view_as(slope)}

    def fields(self) -> dict[str, npt.NDArray[Any]]:
        """The fields of a ``Grid`` with the present values."""
        return {
            name: stored.numpy().astype(np.int16 if name in _INTEGERS else np.float16)
            for name in self.parameters
            if (stored := self.stored(name)) is not None
        }


def _table(layout: Layout) -> npt.NDArray[Any]:
    """The levels of a type in the smallest format that holds them."""
    return np.array(layout.levels, np.float16 if layout.book is not None else np.int8)


def _product(base: Tensor | None, factors: Tensor | None) -> Tensor | None:
    if base is None or factors is None:
        return base
    return (factors.view(*base.shape, -1) * base[:, :, None]).view_as(factors)


class TunedLinear(nn.Module):
    """A linear with a quantised matrix, decoded whenever it is needed; gradients go to its scales.

    Attributes:
        fields: scales and mins.
        in_features, out_features: as of ``nn.Linear``.
        slopes: sums of gradients at ``fields.parameters`` by field; whoever takes a step empties it.
    """

    def __init__(
        self, packed: npt.NDArray[np.uint8], type_name: str, order: npt.NDArray[np.intp], bias: nn.Parameter | None
    ) -> None:
        """Unpack a matrix.

        Args:
            packed: ggml's blocks, uint8 ``(rows, bytes of a row)``.
            type_name: name of a type in ``gguf.blocks.LAYOUTS``.
            order: the file's row that is each row of the module.
            bias: bias of the module that is replaced, or None.
        """
        super().__init__()
        grid = unpack(packed[order], type_name)
        self._type_name, self._order = type_name, order
        self._levels = torch.from_numpy(_table(grid.layout)[grid.codes])
        self.fields = ScaleFields(grid)
        self.bias = bias
        self.out_features, self.in_features = grid.codes.shape
        self.slopes: dict[str, Tensor] = {}
        self._decoded: tuple[Tensor, Tensor | None] | None = None

    def changed(self) -> None:
        """Decode anew, because parameters have changed."""
        self._decoded = None

    def _scales(self) -> tuple[Tensor, Tensor | None]:
        if self._decoded is None:
            self._decoded = self.fields.effective()
        return self._decoded

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The matrix ``(rows, columns)``."""
        scales, mins = self._scales()
        out = torch.empty(self.out_features, self.in_features, dtype=dtype)
        for rows in self._pieces():
            part = self._levels[rows].float().view(*scales[rows].shape, -1)
            part.mul_(scales[rows][:, :, None])
            if mins is not None:
                part.sub_(mins[rows][:, :, None])
            out[rows] = part.flatten(1)
        return out

    def collect(self, slope: Tensor, x: Tensor) -> None:
        """Add to ``slopes``.

        Args:
            slope: gradient at the outputs, ``(N, rows)``.
            x: inputs ``(N, columns)``.
        """
        scales, mins = self._scales()
        of_scales = torch.empty_like(scales)
        of_mins = None if mins is None else torch.empty_like(mins)
        for rows in self._pieces():
            of_weights = (slope[:, rows].T @ x).float().view(*scales[rows].shape, -1)
            if of_mins is not None:
                of_mins[rows] = -of_weights.sum(-1)
            of_scales[rows] = of_weights.mul_(self._levels[rows].view_as(of_weights)).sum(-1)
        for name, value in self.fields.slopes(of_scales, of_mins).items():
            self.slopes[name] = self.slopes[name].add_(value) if name in self.slopes else value

    def packed(self) -> npt.NDArray[np.uint8]:
        """ggml's blocks with the present scales, uint8 ``(rows, bytes of a row)``, in the file's order of rows."""
        table, levels = _table(LAYOUTS[self._type_name]), self._levels.numpy()
        codes = np.empty(levels.shape, np.uint8)
        for rows_at_once in self._pieces():
            codes[rows_at_once] = np.searchsorted(table, levels[rows_at_once])
        rows = pack(Grid(self._type_name, codes, **self.fields.fields()))
        restored = np.empty_like(rows)
        restored[self._order] = rows
        return restored

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self)
        return out if self.bias is None else out + self.bias

    def _pieces(self) -> list[slice]:
        step = max(1, _PIECE // self.in_features)
        return [slice(start, min(start + step, self.out_features)) for start in range(0, self.out_features, step)]


class _Product(torch.autograd.Function):
    """``x W^T`` with the matrix of a ``TunedLinear``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: TunedLinear) -> Tensor:
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        ctx.linear, ctx.kind = linear, x.dtype
        x = x.to(dtype)
        ctx.save_for_backward(x)
        return x @ linear.matrix(dtype).T

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (x,), linear = ctx.saved_tensors, ctx.linear
        slope = slopes[0].to(x.dtype)
        linear.collect(slope.flatten(0, -2), x.flatten(0, -2))
        return (slope @ linear.matrix(x.dtype)).to(ctx.kind), None
