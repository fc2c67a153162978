"""The inner loop of rounding with feedback, compiled: see ``subblock.round_sub_block``."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Rows that go through a sub-block together: what they need stays in the processor's first cache.
_LANES = 64


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
    """Round the columns of a sub-block one after the other with every candidate; keep the best of each row.

    No result depends on how rows are grouped.

    Args:
        weights: ``(columns, rows)``, what errors are counted from.
        targets: ``(columns, rows)``.
        feedback: ``(columns, columns)``.
        variances: ``(columns,)``.
        scales: ``(candidates, rows)``.
        mins: the same, or with no candidates where the type has none.
        table: levels in rising order; of two, the lowest and the highest of all whole numbers between.
        levels: ``(columns, rows)``, is filled.
        errors: ``(columns, rows)``, is filled.
        picks: ``(rows,)``, is filled with the index of the candidate.
        costs: ``(rows,)``, is filled.
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
        count = min(_LANES, rows - first)
        for candidate in range(len(scales)):
            for j in range(columns):
                for r in range(count):
                    target[j, r] = targets[j, first + r]
            for r in range(count):
                scale[r] = scales[candidate, first + r]
                inverse[r] = np.float32(1) / scale[r] if scale[r] != 0 else np.float32(0)
                cost[r] = 0
            if len(mins):
                for r in range(count):
                    least[r] = mins[candidate, first + r]
                    offset[r] = least[r] * inverse[r]
            for j in range(columns):
                if linear:
                    for r in range(count):
                        level[j, r] = min(max(np.rint(target[j, r] * inverse[r] + offset[r]), low), high)
                else:
                    for r in range(count):
                        level[j, r] = low
                    for i in range(1, len(table)):
                        middle = (table[i] + table[i - 1]) / np.float32(2)
                        rise = table[i] - table[i - 1]
                        for r in range(count):
                            scaled = target[j, r] * inverse[r] + offset[r]
                            level[j, r] += rise if scaled > middle else np.float32(0)
                variance = variances[j]
                for r in range(count):
                    value = level[j, r] * scale[r] - least[r]
                    error[j, r] = weights[j, first + r] - value
                    miss = value - target[j, r]
                    cost[r] += variance * (miss * miss)
                for i in range(j + 1, columns):
                    factor = feedback[j, i]
                    for r in range(count):
                        target[i, r] += factor * error[j, r]
            for r in range(count):
                better[r] = candidate == 0 or cost[r] < best_cost[r]
                best[r] = candidate if better[r] else best[r]
                best_cost[r] = cost[r] if better[r] else best_cost[r]
            for j in range(columns):
                for r in range(count):
                    best_level[j, r] = level[j, r] if better[r] else best_level[j, r]
                    best_error[j, r] = error[j, r] if better[r] else best_error[j, r]
        for j in range(columns):
            for r in range(count):
                levels[j, first + r] = best_level[j, r]
                errors[j, first + r] = best_error[j, r]
        for r in range(count):
            picks[first + r] = best[r]
            costs[first + r] = best_cost[r]
