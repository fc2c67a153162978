"""The compiled inner loops of rounding with feedback; see ``subblock.round_sub_block``."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Rows that are rounded together: few enough that their arrays stay in the first-level cache.
_LANES = 128


@numba.njit(nogil=True, cache=True, error_model="numpy")
def round_columns(
    weights: Floats,
    targets: Floats,
    feedback: Floats,
    variances: Floats,
    scales: Floats,
    mins: Floats,
    table: Floats,
    levels: Floats,
    errors: Floats,
    picks: npt.NDArray[np.int64],
    costs: Floats,
) -> None:
    """Round the columns of a sub-block one after the other with every candidate; each row takes the best.

    Results do not depend on how rows are grouped.

    Args:
        weights: ``(columns, rows)``; errors are differences from these.
        targets: weights plus the feedback of earlier columns, ``(columns, rows)``.
        feedback: part of M, ``(columns, columns)``.
        variances: R_jj^2, ``(columns,)``.
        scales: ``(candidates, rows)``.
        mins: like ``scales``, or ``(0, rows)`` for types without mins.
        table: ascending levels; if there are only two, all integers from the first to the second.
        levels: chosen levels, ``(columns, rows)``; filled.
        errors: weights minus chosen values, ``(columns, rows)``; filled.
        picks: index of the chosen candidate, ``(rows,)``; filled.
        costs: sum_j R_jj^2 (target_j - value_j)^2, ``(rows,)``; filled.
    """
    columns, rows = targets.shape
    linear = len(table) == 2
    low, high = table[0], table[-1]
    target = np.empty((columns, _LANES), np.float32)
    level = np.zeros((columns, _LANES), np.float32)
    error = np.zeros((columns, _LANES), np.float32)
    scale = np.zeros(_LANES, np.float32)
    least = np.zeros(_LANES, np.float32)
    inverse = np.zeros(_LANES, np.float32)
    offset = np.zeros(_LANES, np.float32)
    cost = np.zeros(_LANES, np.float32)
    best_level = np.zeros((columns, _LANES), np.float32)
    best_error = np.zeros((columns, _LANES), np.float32)
    best_cost = np.zeros(_LANES, np.float32)
    best = np.zeros(_LANES, np.int64)
    better = np.zeros(_LANES, np.bool_)
    for first in range(0, rows, _LANES):
        # Rows of arrays are sliced before each loop, because only then does the compiler see that no index is negative
        # and vectorise the loop.
        last = min(first + _LANES, rows)
        count = last - first
        for candidate in range(len(scales)):
            given = scales[candidate, first:last]
            for r in range(count):
                scale[r] = given[r]
                inverse[r] = np.float32(1) / scale[r] if scale[r] != 0 else np.float32(0)
                cost[r] = 0
            if len(mins):
                given = mins[candidate, first:last]
                for r in range(count):
                    least[r] = given[r]
                    offset[r] = least[r] * inverse[r]
            for j in range(columns):
                target[j, :count] = targets[j, first:last]
            for j in range(columns):
                aim, weight, mine, missed = target[j], weights[j, first:last], level[j], error[j]
                if linear:
                    for r in range(count):
                        mine[r] = min(max(np.rint(aim[r] * inverse[r] + offset[r]), low), high)
                else:
                    for r in range(count):
                        mine[r] = low
                    for i in range(1, len(table)):
                        middle = (table[i] + table[i - 1]) / np.float32(2)
                        rise = table[i] - table[i - 1]
                        for r in range(count):
                            scaled = aim[r] * inverse[r] + offset[r]
                            mine[r] += rise if scaled > middle else np.float32(0)
                variance = variances[j]
                for r in range(count):
                    value = mine[r] * scale[r] - least[r]
                    missed[r] = weight[r] - value
                    miss = value - aim[r]
                    cost[r] += variance * (miss * miss)
                for i in range(j + 1, columns):
                    later, factor = target[i], feedback[j, i]
                    for r in range(count):
                        later[r] += factor * missed[r]
            for r in range(count):
                better[r] = candidate == 0 or cost[r] < best_cost[r]
                best[r] = candidate if better[r] else best[r]
                best_cost[r] = cost[r] if better[r] else best_cost[r]
            for j in range(columns):
                mine, missed, kept, kept_error = level[j], error[j], best_level[j], best_error[j]
                for r in range(count):
                    kept[r] = mine[r] if better[r] else kept[r]
                    kept_error[r] = missed[r] if better[r] else kept_error[r]
        for j in range(columns):
            levels[j, first:last] = best_level[j, :count]
            errors[j, first:last] = best_error[j, :count]
        picks[first:last] = best[:count]
        costs[first:last] = best_cost[:count]


@numba.njit(nogil=True, cache=True)
def neighbours(
    present: Floats, steps: Floats, lowest: float, highest: float, unit: Floats, stored: Floats, values: Floats
) -> None:
    """Integers near the stored ones of a sub-block, and the scales (or mins) that they represent.

    Args:
        present: stored integers, ``(rows,)``.
        steps: ``(candidates,)``; a step below 1 is a share of the integer and moves it by at least 1.
        lowest, highest: range of integers that can be stored.
        unit: d (or m), by which they are multiplied, ``(rows,)``.
        stored, values: integers and their products with ``unit``, ``(candidates, rows)``; filled.
    """
    low, high = np.float32(lowest), np.float32(highest)
    for candidate in range(len(steps)):
        step = steps[candidate]
        size, sign = abs(step), np.float32(np.sign(step))
        integers, scales = stored[candidate], values[candidate]
        for r in range(len(present)):
            part = max(np.rint(size * abs(present[r])), np.float32(1)) * sign
            integers[r] = min(max(present[r] + (part if size < 1 else step), low), high)
        for r in range(len(present)):
            scales[r] = integers[r] * unit[r]


@numba.njit(nogil=True, cache=True)
def take_picked(stored: Floats, picks: npt.NDArray[np.int64], where: npt.NDArray[np.bool_], present: Floats) -> None:
    """Set ``present`` ``(rows,)`` to candidate ``picks`` of ``stored`` ``(candidates, rows)`` in the rows ``where``."""
    for r in range(len(present)):
        if where[r]:
            present[r] = stored[picks[r], r]
