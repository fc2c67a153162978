"""Scales and mins of sub-blocks before any column is rounded: the searches of ggml's encoders, many rows at a time.

ggml looks for the grid of one sub-block after the other (``make_qkx3_quants``, ``make_qx_quants``), which takes as long
as all the rest of rounding with feedback. Here, as there, each sub-block tries inverse scales around the one that spans
its weights, and fits scale and min by weighted least squares to the codes that each gives; then d and m of a
super-block are fitted to the scales and mins of its sub-blocks in the same way. An error counts by the importance of
its column alone, and not the more the larger the weight: that serves feedback better.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..gguf.blocks import Layout
from ..gguf.blocks.bits import ScaleBits
from .scales import Fields, half

Floats = npt.NDArray[np.float32]

# Rows that are searched together.
_LANES = 256
_ONE = np.float32(1)
_TWO = np.float32(2)
_ZERO = np.float32(0)
# Levels by which inverse scales are moved.
_STEPS = np.linspace(-0.9, 0.9, 19).astype(np.float32)


@numba.njit(nogil=True, cache=True)
def _lanes() -> Floats:
    return np.zeros(_LANES, np.float32)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def search_affine(
    weights: Floats, emphasis: Floats, top: np.float32, steps: Floats, scales: Floats, mins: Floats, energies: Floats
) -> None:
    """Scale and min (subtracted, not negative) of codes 0 to ``top`` that fit a sub-block best.

    Args:
        weights: ``(sub, rows)``.
        emphasis: what an error of each counts, ``(sub, rows)``.
        top: the highest code.
        steps: to try.
        scales, mins: ``(rows,)``, are filled.
        energies: ``(2, rows)``, what an error of the scale, and of the min, counts; is filled.
    """
    columns, rows = weights.shape
    low, high, total, total_x = _lanes(), _lanes(), _lanes(), _lanes()
    inverse, sum_l, sum_l2, sum_xl, best = _lanes(), _lanes(), _lanes(), _lanes(), _lanes()
    fitted, lowest, cost, better = _lanes(), _lanes(), _lanes(), np.zeros(_LANES, np.bool_)
    for first in range(0, rows, _LANES):
        last = min(first + _LANES, rows)
        count = last - first
        scale, least = scales[first:last], mins[first:last]
        of_scale, of_min = energies[0, first:last], energies[1, first:last]
        low[:] = _ZERO
        total[:] = _ZERO
        total_x[:] = _ZERO
        high[:count] = weights[0, first:last]
        for j in range(columns):
            x, counts = weights[j, first:last], emphasis[j, first:last]
            for r in range(count):
                low[r] = min(low[r], x[r])
                high[r] = max(high[r], x[r])
                total[r] += counts[r]
                total_x[r] += counts[r] * x[r]
        for r in range(count):
            # A constant sub-block is all min; one that is not negative anywhere has its scale below.
            scale[r] = _ZERO
            least[r] = -low[r]
            of_scale[r] = _ZERO
            of_min[r] = total[r]
            best[r] = low[r] * low[r] * total[r] - _TWO * low[r] * total_x[r]
        for step in steps:
            for r in range(count):
                span = high[r] - low[r]
                inverse[r] = (top + step) / span if span > 0 else _ZERO
                sum_l[r] = _ZERO
                sum_l2[r] = _ZERO
                sum_xl[r] = _ZERO
            for j in range(columns):
                x, counts = weights[j, first:last], emphasis[j, first:last]
                for r in range(count):
                    level = min(max(np.rint((x[r] - low[r]) * inverse[r]), _ZERO), top)
                    part = counts[r] * level
                    sum_l[r] += part
                    sum_l2[r] += part * level
                    sum_xl[r] += part * x[r]
            # Several short loops: one that reads and writes so many arrays would take one row at a time.
            for r in range(count):
                inverse[r] = _ONE / (total[r] * sum_l2[r] - sum_l[r] * sum_l[r])
            for r in range(count):
                lowest[r] = (sum_l2[r] * total_x[r] - sum_l[r] * sum_xl[r]) * inverse[r]
            for r in range(count):
                both = (total[r] * sum_xl[r] - total_x[r] * sum_l[r]) * inverse[r]
                fitted[r] = sum_xl[r] / sum_l2[r] if lowest[r] > 0 else both
            for r in range(count):
                lowest[r] = min(lowest[r], _ZERO)
            for r in range(count):
                # The error is this and sum(e w^2).
                cost[r] = fitted[r] * (fitted[r] * sum_l2[r] - _TWO * (sum_xl[r] - lowest[r] * sum_l[r]))
            for r in range(count):
                cost[r] += lowest[r] * (lowest[r] * total[r] - _TWO * total_x[r])
            for r in range(count):
                better[r] = (inverse[r] > 0) & (fitted[r] > 0) & (cost[r] < best[r])
            for r in range(count):
                best[r] = cost[r] if better[r] else best[r]
                scale[r] = fitted[r] if better[r] else scale[r]
            for r in range(count):
                least[r] = -lowest[r] if better[r] else least[r]
                of_scale[r] = sum_l2[r] if better[r] else of_scale[r]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def search_scale(
    weights: Floats,
    emphasis: Floats,
    lowest: np.float32,
    highest: np.float32,
    steps: Floats,
    scales: Floats,
    energies: Floats,
) -> None:
    """Scale of codes ``lowest`` to ``highest`` that fits a sub-block best; of either sign where codes are.

    Args:
        weights: ``(sub, rows)``; none is negative where ``lowest`` is 0.
        emphasis: what an error of each counts, ``(sub, rows)``.
        lowest, highest: the codes; the further one from 0 is tried for the largest weight.
        steps: to try.
        scales: ``(rows,)``, is filled.
        energies: ``(rows,)``, what an error of the scale counts; is filled.
    """
    columns, rows = weights.shape
    furthest, away = (lowest, -_ONE) if lowest < 0 else (highest, _ONE)
    largest, inverse, sum_l2, sum_xl, best = _lanes(), _lanes(), _lanes(), _lanes(), _lanes()
    for first in range(0, rows, _LANES):
        last = min(first + _LANES, rows)
        count = last - first
        scale, energy = scales[first:last], energies[first:last]
        largest[:] = _ZERO
        best[:] = _ZERO
        scale[:] = _ZERO
        energy[:] = _ZERO
        for j in range(columns):
            x = weights[j, first:last]
            for r in range(count):
                largest[r] = x[r] if abs(x[r]) > abs(largest[r]) else largest[r]
        for step in steps:
            for r in range(count):
                inverse[r] = (furthest + away * step) / largest[r] if largest[r] != 0 else _ZERO
                sum_l2[r] = _ZERO
                sum_xl[r] = _ZERO
            for j in range(columns):
                x, counts = weights[j, first:last], emphasis[j, first:last]
                for r in range(count):
                    level = min(max(np.rint(x[r] * inverse[r]), lowest), highest)
                    part = counts[r] * level
                    sum_l2[r] += part * level
                    sum_xl[r] += part * x[r]
            for r in range(count):
                # With the least-squares scale the error is sum(e w^2) less this.
                fitted = sum_xl[r] / sum_l2[r]
                gain = fitted * sum_xl[r]
                better = gain > best[r]
                best[r] = gain if better else best[r]
                scale[r] = fitted if better else scale[r]
                energy[r] = sum_l2[r] if better else energy[r]


def searches(layout: Layout) -> bool:
    """True for the types that ``search`` knows.

    Q8_0 needs no search, steps of IQ4_NL differ in size, and Q2_0 has a search of its own.
    """
    return layout.is_linear and layout.type_name not in {"Q8_0", "Q2_0"}


def search(layout: Layout, weights: Tensor, importance: Floats) -> Fields:
    """Scales and mins of some rows.

    Args:
        layout: one that ``searches`` is true of.
        weights: ``(columns, rows)``, whole blocks.
        importance: ``(columns,)``.
    """
    columns, rows = weights.shape
    values = weights.numpy()
    counts = np.repeat(importance[:, None], rows, axis=1)
    lowest, highest = np.float32(layout.levels[0]), np.float32(layout.levels[-1])
    scales, mins = (np.empty((columns // layout.sub, rows), np.float32) for _ in range(2))
    energies = np.empty((2, *scales.shape), np.float32)
    for sub in range(len(scales)):
        here = slice(sub * layout.sub, (sub + 1) * layout.sub)
        given = values[here], counts[here]
        if layout.m is None:
            search_scale(*given, lowest, highest, _STEPS, scales[sub], energies[0, sub])
        else:
            search_affine(*given, highest, _STEPS, scales[sub], mins[sub], energies[:, sub])
    if layout.scales is None:
        stored = torch.from_numpy(mins).mul_(layout.min_sign) if layout.m is not None else None
        return Fields(half(torch.from_numpy(scales)), half(stored) if stored is not None else None, None, None)
    per_block = layout.block // layout.sub
    d, codes = _super(scales, energies[0], per_block, layout.scales)
    if layout.m is None:
        return Fields(d, None, codes, None)
    m, min_codes = _super(mins, energies[1], per_block, layout.scales)
    return Fields(d, m, codes, min_codes)


def _super(values: Floats, energies: Floats, per_block: int, bits: ScaleBits) -> tuple[Tensor, Tensor]:
    """d (or m) of super-blocks ``(blocks, rows)``, and integers that make ``values`` ``(sub-blocks, rows)`` of it."""
    blocks = len(values) // per_block
    found = np.empty((blocks, values.shape[1]), np.float32)
    spent = np.empty_like(found)
    for block in range(blocks):
        here = slice(block * per_block, (block + 1) * per_block)
        given = values[here], energies[here], np.float32(bits.lowest), np.float32(bits.highest)
        search_scale(*given, _STEPS, found[block], spent[block])
    d = half(torch.from_numpy(found))
    each = d.repeat_interleave(per_block, 0)
    codes = (torch.from_numpy(values) / each).round_().clamp_(bits.lowest, bits.highest)
    return d, torch.where(each == 0, torch.zeros(()), codes)
