"""The compiled inner loops of rounding vectors to a codebook; see ``vectors.round_vectors``."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int32]

# Rows that are rounded together: few enough that the tables of half vectors stay near the processor.
_LANES = 64
_ZERO = np.float32(0)
_ONE = np.float32(1)
_TWO = np.float32(2)
_FOUR = np.float32(4)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill_halves(
    targets: Floats,
    weights: Floats,
    scale: Floats,
    magnitudes: Floats,
    words: npt.NDArray[np.uint8],
    even: bool,
    table: Floats,
    flips: Floats,
    halves: Floats,
    penalties: Floats,
) -> None:
    """Costs of all half vectors, without the square of the target, and what the cheapest change of a sign adds.

    Args:
        targets: magnitudes of the targets, ``(size, lanes)``.
        weights: weight of a squared error, ``(size,)``.
        scale: magnitude of the scale, ``(lanes,)``.
        magnitudes: magnitudes of levels.
        words: indices of magnitudes of each half vector, ``(2, words, size / 2)``.
        even: fill ``penalties`` too.
        table, flips: buffers ``(size, magnitudes, lanes)``.
        halves, penalties: ``(2, words, lanes)``; filled.
    """
    half = words.shape[2]
    for i in range(len(targets)):
        target, weight = targets[i], weights[i]
        for m in range(len(magnitudes)):
            cost, magnitude = table[i, m], magnitudes[m]
            for r in range(_LANES):
                value = magnitude * scale[r]
                cost[r] = weight * value * (value - _TWO * target[r])
            if even:
                flip = flips[i, m]
                for r in range(_LANES):
                    flip[r] = _FOUR * weight * magnitude * scale[r] * target[r]
    for side in range(2):
        for word in range(words.shape[1]):
            total = halves[side, word]
            part = table[side * half, words[side, word, 0]]
            for r in range(_LANES):
                total[r] = part[r]
            for i in range(1, half):
                part = table[side * half + i, words[side, word, i]]
                for r in range(_LANES):
                    total[r] += part[r]
            if even:
                least = penalties[side, word]
                part = flips[side * half, words[side, word, 0]]
                for r in range(_LANES):
                    least[r] = part[r]
                for i in range(1, half):
                    part = flips[side * half + i, words[side, word, i]]
                    for r in range(_LANES):
                        least[r] = min(least[r], part[r])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cheapest(halves: Floats, first: Numbers, second: Numbers, least: Floats, index: Numbers) -> None:
    """The point of least cost in each lane; ``least`` and ``index`` are filled."""
    for r in range(_LANES):
        least[r] = np.float32(np.inf)
        index[r] = 0
    # Four at a time, because reading and writing the best so far takes longer than comparing.
    for k in range(0, len(first), 4):
        one_0, two_0 = halves[0, first[k]], halves[1, second[k]]
        one_1, two_1 = halves[0, first[k + 1]], halves[1, second[k + 1]]
        one_2, two_2 = halves[0, first[k + 2]], halves[1, second[k + 2]]
        one_3, two_3 = halves[0, first[k + 3]], halves[1, second[k + 3]]
        number_0, number_1, number_2, number_3 = np.int32(k), np.int32(k + 1), np.int32(k + 2), np.int32(k + 3)
        for r in range(_LANES):
            cost, other = one_0[r] + two_0[r], one_1[r] + two_1[r]
            number = number_1 if other < cost else number_0
            cost = other if other < cost else cost
            third, fourth = one_2[r] + two_2[r], one_3[r] + two_3[r]
            later = number_3 if fourth < third else number_2
            third = fourth if fourth < third else third
            number = later if third < cost else number
            cost = third if third < cost else cost
            better = cost < least[r]
            least[r] = cost if better else least[r]
            index[r] = number if better else index[r]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _cheapest_changed(
    halves: Floats, penalties: Floats, changed: Floats, first: Numbers, second: Numbers, least: Floats, index: Numbers
) -> None:
    """``_cheapest`` with one sign changed in the lanes where ``changed`` is 1."""
    for r in range(_LANES):
        least[r] = np.float32(np.inf)
        index[r] = 0
    for k in range(len(first)):
        one, two = halves[0, first[k]], halves[1, second[k]]
        price, other_price = penalties[0, first[k]], penalties[1, second[k]]
        number = np.int32(k)
        for r in range(_LANES):
            cost = one[r] + two[r] + changed[r] * min(price[r], other_price[r])
            better = cost < least[r]
            least[r] = cost if better else least[r]
            index[r] = number if better else index[r]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _put(
    targets: Floats,
    weights: Floats,
    lane: int,
    sign: np.float32,
    magnitudes: Floats,
    point: npt.NDArray[np.uint8],
    flipped: bool,
    level: Floats,
) -> None:
    """The signed levels of ``point`` in a lane: those of ``targets``, if ``flipped`` but for the cheapest one."""
    cheapest, least = 0, np.float32(np.inf)
    for i in range(len(point)):
        target, magnitude = targets[i, lane], magnitudes[point[i]]
        level[i, lane] = -sign * magnitude if target < 0 else sign * magnitude
        price = weights[i] * magnitude * abs(target)
        if price < least:
            cheapest, least = i, price
    if flipped:
        level[cheapest, lane] = -level[cheapest, lane]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _round_unit(
    targets: Floats,
    weights: Floats,
    scale: Floats,
    magnitudes: Floats,
    points: npt.NDArray[np.uint8],
    first: Numbers,
    second: Numbers,
    words: npt.NDArray[np.uint8],
    even: bool,
    sizes: Floats,
    odd: Floats,
    tables: Floats,
    halves: Floats,
    least: Floats,
    index: Numbers,
    level: Floats,
) -> None:
    """The signed levels ``(unit, lanes)`` nearest to ``targets`` ``(unit, lanes)``; ``level`` is filled.

    ``weights`` are those of squared errors, ``(unit,)``. The arguments from ``sizes`` to ``index`` are buffers; the
    others are as in ``round_vectors_of_rows``.
    """
    size = points.shape[1]
    parts = len(targets) // size
    strength = sizes[-1]
    for r in range(_LANES):
        strength[r] = abs(scale[r])
        odd[r] = _ZERO
    for j in range(len(targets)):
        target, magnitude = targets[j], sizes[j]
        for r in range(_LANES):
            magnitude[r] = abs(target[r])
        if even:
            for r in range(_LANES):
                odd[r] = _ONE - odd[r] if target[r] < 0 else odd[r]
    for part in range(parts):
        here = slice(part * size, (part + 1) * size)
        _fill_halves(
            sizes[here], weights[here], strength, magnitudes, words, even, tables[0], tables[1], halves[0], halves[1]
        )
        # Of the searches of a lone part, one is enough: a sign is changed in the lanes where that is needed.
        if not even or parts > 1:
            _cheapest(halves[0], first, second, least[part, 0], index[part, 0])
        if even:
            _cheapest_changed(halves[0], halves[1], odd, first, second, least[part, 1], index[part, 1])
    for r in range(_LANES):
        sign = -_ONE if scale[r] < 0 else _ONE
        changed = 0 if odd[r] > 0 else -1
        if odd[r] > 0:
            for part in range(1, parts):
                if least[part, 1, r] - least[part, 0, r] < least[changed, 1, r] - least[changed, 0, r]:
                    changed = part
        for part in range(parts):
            here = slice(part * size, (part + 1) * size)
            flipped = part == changed
            point = points[index[part, 1 if flipped or (even and parts == 1) else 0, r]]
            _put(targets[here], weights[here], r, sign, magnitudes, point, flipped, level[here])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def round_vectors_of_rows(
    weights: Floats,
    targets: Floats,
    feedback: Floats,
    metrics: Floats,
    scales: Floats,
    magnitudes: Floats,
    points: npt.NDArray[np.uint8],
    first: Numbers,
    second: Numbers,
    words: npt.NDArray[np.uint8],
    even: bool,
    levels: Floats,
    errors: Floats,
    picks: npt.NDArray[np.int64],
    costs: Floats,
) -> None:
    """Round the units of a sub-block one after the other with every candidate; each row takes the best.

    A unit is a vector, or the vectors whose signs depend on each other. With D its conditional metric and x its
    targets, it costs (x - q) D (x - q)^T. Chosen is the q of least cost with the diagonal of D alone.

    Results do not depend on how rows are grouped.

    Args:
        weights: ``(columns, rows)``; errors are differences from these.
        targets: weights plus the feedback of earlier columns, ``(columns, rows)``.
        feedback: part of M, ``(columns, columns)``.
        metrics: D of each unit, ``(units, unit, unit)``.
        scales: ``(candidates, rows)``.
        magnitudes: magnitudes of levels, ascending.
        points: indices of the magnitudes of each point, ``(points, size)``; a multiple of four.
        first, second: index in ``words`` of the first and second half of each point.
        words: different halves of points, ``(2, words, size / 2)``.
        even: the number of minus signs of a unit must be even.
        levels: chosen levels, ``(columns, rows)``; filled.
        errors: weights minus chosen values, ``(columns, rows)``; filled.
        picks: index of the chosen candidate, ``(rows,)``; filled.
        costs: sum of the costs of units, ``(rows,)``; filled.
    """
    columns, rows = targets.shape
    unit, size = metrics.shape[1], points.shape[1]
    target, weight = np.zeros((columns, _LANES), np.float32), np.zeros((columns, _LANES), np.float32)
    level, error = np.zeros((columns, _LANES), np.float32), np.zeros((columns, _LANES), np.float32)
    best_level, best_error = np.zeros((columns, _LANES), np.float32), np.zeros((columns, _LANES), np.float32)
    aim, missed = np.zeros((unit, _LANES), np.float32), np.zeros((unit, _LANES), np.float32)
    diagonal = np.zeros(unit, np.float32)
    scale, cost, best_cost = np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32)
    best, better = np.zeros(_LANES, np.int64), np.zeros(_LANES, np.bool_)
    sizes, odd = np.zeros((unit + 1, _LANES), np.float32), np.zeros(_LANES, np.float32)
    tables = np.zeros((2, size, len(magnitudes), _LANES), np.float32)
    halves = np.zeros((2, 2, words.shape[1], _LANES), np.float32)
    least, index = np.zeros((unit // size, 2, _LANES), np.float32), np.zeros((unit // size, 2, _LANES), np.int32)
    for start in range(0, rows, _LANES):
        last = min(start + _LANES, rows)
        count = last - start
        for j in range(columns):
            weight[j, :count] = weights[j, start:last]
        for candidate in range(len(scales)):
            scale[:count] = scales[candidate, start:last]
            cost[:] = _ZERO
            for j in range(columns):
                target[j, :count] = targets[j, start:last]
            for u in range(columns // unit):
                metric, begin = metrics[u], u * unit
                for j in range(unit):
                    diagonal[j] = metric[j, j]
                    change, given, own = missed[j], target[begin + j], weight[begin + j]
                    for r in range(_LANES):
                        change[r] = given[r] - own[r]
                    for i in range(j):
                        earlier, factor = missed[i], feedback[begin + i, begin + j]
                        for r in range(_LANES):
                            change[r] -= factor * earlier[r]
                    aimed = aim[j]
                    for r in range(_LANES):
                        aimed[r] = own[r] + change[r]
                _round_unit(
                    aim,
                    diagonal,
                    scale,
                    magnitudes,
                    points,
                    first,
                    second,
                    words,
                    even,
                    sizes,
                    odd,
                    tables,
                    halves,
                    least,
                    index,
                    level[begin : begin + unit],
                )
                for j in range(unit):
                    mine, aimed, miss = level[begin + j], aim[j], missed[j]
                    for r in range(_LANES):
                        miss[r] = aimed[r] - mine[r] * scale[r]
                for j in range(unit):
                    miss = missed[j]
                    for i in range(unit):
                        other, factor = missed[i], metric[i, j]
                        for r in range(_LANES):
                            cost[r] += factor * (miss[r] * other[r])
                for j in range(begin, begin + unit):
                    mine, miss, own = level[j], error[j], weight[j]
                    for r in range(_LANES):
                        miss[r] = own[r] - mine[r] * scale[r]
                    for i in range(begin + unit, columns):
                        later, factor = target[i], feedback[j, i]
                        for r in range(_LANES):
                            later[r] += factor * miss[r]
            for r in range(_LANES):
                better[r] = candidate == 0 or cost[r] < best_cost[r]
                best[r] = candidate if better[r] else best[r]
                best_cost[r] = cost[r] if better[r] else best_cost[r]
            for j in range(columns):
                mine, miss, kept, kept_error = level[j], error[j], best_level[j], best_error[j]
                for r in range(_LANES):
                    kept[r] = mine[r] if better[r] else kept[r]
                    kept_error[r] = miss[r] if better[r] else kept_error[r]
        for j in range(columns):
            levels[j, start:last] = best_level[j, :count]
            errors[j, start:last] = best_error[j, :count]
        picks[start:last] = best[:count]
        costs[start:last] = best_cost[:count]
