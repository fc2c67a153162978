"""First scales and mins of sub-blocks, before any rounding: the searches of ggml's encoders, many rows at a time.

ggml searches one sub-block after the other (``make_qkx3_quants``, ``make_qx_quants``), which takes as long as the rest
of rounding with feedback. Here too, each sub-block tries inverse scales around the one that spans its weights, and fits
scale and min by weighted least squares to the codes of each; then d and m of a super-block are fitted to the scales and
mins of its sub-blocks in the same way. Unlike in ggml, errors are weighted by the importance of their column alone and
not also by the size of the weight, which gives better results with feedback.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..gguf.blocks import Layout, unpack
from ..gguf.blocks.bits import ScaleBits
from ..llama import encoders
from .q2_0 import search_grid
from .scales import Fields, half

Floats = npt.NDArray[np.float32]

# Types for which ggml's encoder does not search and that ``search`` does not serve.
_OWN_SEARCHES = {"Q2_0": search_grid}
# With so many levels (Q8_0) the scale that spans the weights is good enough.
_FINE = 256
# Rows that are searched together.
_LANES = 256
_ONE = np.float32(1)
_TWO = np.float32(2)
_ZERO = np.float32(0)
# Steps of the inverse scale, in levels.
_STEPS = np.linspace(-0.9, 0.9, 19).astype(np.float32)


@numba.njit(nogil=True, cache=True)
def _lanes() -> Floats:
    return np.zeros(_LANES, np.float32)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def search_affine(
    weights: Floats, emphasis: Floats, top: np.float32, steps: Floats, scales: Floats, mins: Floats, energies: Floats
) -> None:
    """The best scale and min (subtracted, not negative) of a sub-block for codes 0 to ``top``.

    Args:
        weights: ``(sub, rows)``.
        emphasis: weight of each squared error, ``(sub, rows)``.
        top: highest code.
        steps: steps of the inverse scale to try.
        scales, mins: ``(rows,)``; filled.
        energies: weights of a squared error of the scale and of the min, ``(2, rows)``; filled.
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
            # A constant sub-block has only a min; if no weight is negative, only a scale, found below.
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
            # Several short loops, because one with so many arrays would not be vectorised.
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
                # The error is this plus sum(e w^2).
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
    """The best scale of a sub-block for codes ``lowest`` to ``highest``; of either sign if the codes are.

    Args:
        weights: ``(sub, rows)``; none may be negative if ``lowest`` is 0.
        emphasis: weight of each squared error, ``(sub, rows)``.
        lowest, highest: range of the codes; the largest weight gets the one further from 0.
        steps: steps of the inverse scale to try.
        scales: ``(rows,)``; filled.
        energies: weight of a squared error of the scale, ``(rows,)``; filled.
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
                # With the least-squares scale the error is sum(e w^2) minus this.
                fitted = sum_xl[r] / sum_l2[r]
                gain = fitted * sum_xl[r]
                better = gain > best[r]
                best[r] = gain if better else best[r]
                scale[r] = fitted if better else scale[r]
                energy[r] = sum_l2[r] if better else energy[r]


def first_fields(layout: Layout, weights: Tensor, importance: Floats) -> Fields:
    """Scales and mins to start with, by the best search that there is for the type.

    Args:
        layout: layout of the type.
        weights: ``(columns, rows)``, whole blocks.
        importance: ``(columns,)``.
    """
    if searches(layout):
        return search(layout, weights, importance)
    rows = weights.T.contiguous().numpy()
    if layout.type_name in _OWN_SEARCHES:
        return Fields.of(_OWN_SEARCHES[layout.type_name](rows, importance))
    return Fields.of(unpack(encoders.encode(rows, layout.type_name, importance, 1), layout.type_name))


def searches(layout: Layout) -> bool:
    """True for types that ``search`` supports: equal steps between levels, too few to do without a search."""
    return layout.is_linear and len(layout.levels) < _FINE and layout.type_name not in _OWN_SEARCHES


def search(layout: Layout, weights: Tensor, importance: Floats) -> Fields:
    """Scales and mins of some rows.

    Args:
        layout: layout of a type for which ``searches`` is true.
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
        inputs = values[here], counts[here]
        if layout.m is None:
            search_scale(*inputs, lowest, highest, _STEPS, scales[sub], energies[0, sub])
        else:
            search_affine(*inputs, highest, _STEPS, scales[sub], mins[sub], energies[:, sub])
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
    """d (or m) of super-blocks ``(blocks, rows)``, and the integers of sub-blocks that give ``values`` with it."""
    blocks = len(values) // per_block
    fitted = np.empty((blocks, values.shape[1]), np.float32)
    unused_energies = np.empty_like(fitted)
    for block in range(blocks):
        here = slice(block * per_block, (block + 1) * per_block)
        inputs = values[here], energies[here], np.float32(bits.lowest), np.float32(bits.highest)
        search_scale(*inputs, _STEPS, fitted[block], unused_energies[block])
    d = half(torch.from_numpy(fitted))
    each = d.repeat_interleave(per_block, 0)
    codes = (torch.from_numpy(values) / each).round_().clamp_(bits.lowest, bits.highest)
    return d, torch.where(each == 0, torch.zeros(()), codes)
