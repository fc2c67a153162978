"""Share nominal bits out between blocks: the paper's two levels (Eqs 9-10) and the general rule for any levels.

Both keep order: a block with a higher score never gets fewer bits. Equal scores go by block index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, combinations_with_replacement

from ..errors import InputError

SPREAD_BITS = 2.0
"""Distance in bits between the weights of errors in the lowest and the highest block.

A bit less makes the squared error about four times larger. The block with the highest score counts 4^2 = 16 times the
one with the lowest: as much as the two bits between the lowest and the highest default level.
"""


def rank_blocks(scores: Sequence[float]) -> list[int]:
    """Block indices by falling score; equal scores by index."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def two_levels(scores: Sequence[float], sizes: Sequence[int], budget: float, low: int, high: int) -> list[int]:
    """The paper's allocation (Eqs 9-10): the top blocks get ``high`` bits and the others ``low``.

    With equal blocks ``m = round(L (b - low) / (high - low))`` blocks are promoted; with unequal ones the smallest top
    set that holds the share f = (b - low) / (high - low) of the weights. A budget above ``low`` promotes at least one.

    Args:
        scores: one score a block.
        sizes: number of weights N_l of each block.
        budget: average nominal bits b.
        low: bits of the other blocks.
        high: bits of the promoted blocks.

    Returns:
        Bits of each block, in block order.

    Raises:
        InputError: the budget is outside [low, high].
    """
    check_range(budget, low, high)
    share = (budget - low) / (high - low)
    order = rank_blocks(scores)
    if len(set(sizes)) == 1:
        # Half rounds up: Python's round() would take 2.5 to 2.
        promoted = math.floor(len(sizes) * share + 0.5)
    else:
        promoted, held, wanted = 0, 0, share * sum(sizes) * (1 - 1e-12)
        while held < wanted:
            held += sizes[order[promoted]]
            promoted += 1
    if share > 0:
        promoted = max(1, promoted)
    top = set(order[:promoted])
    return [high if i in top else low for i in range(len(sizes))]


def many_levels(scores: Sequence[float], sizes: Sequence[int], budget: float, levels: Sequence[int]) -> list[int]:
    """Share out any levels under a nominal budget.

    Of all order-keeping assignments at or below the budget, those closest to it are considered; of these, the one with
    the least weighted error ``sum_l w_l N_l 4^(-b_l)`` is taken, w_l = 4^(SPREAD_BITS n_l), n_l the
    min-max scaled score.

    Args:
        scores: one score a block.
        sizes: number of weights of each block.
        budget: average nominal bits.
        levels: ascending nominal bits, e.g. (2, 3, 4).

    Returns:
        Bits of each block, in block order.

    Raises:
        InputError: the budget is outside the levels' range.
    """
    check_range(budget, levels[0], levels[-1])
    total = sum(sizes)
    limit = budget * total * (1 + 1e-12)
    weights = error_weights(scores)

    def cost(block: int, level: int) -> tuple[float, float]:
        return float(level * sizes[block]), weights[block] * sizes[block] * 4.0**-level

    bits = _search(scores, levels, cost, limit, lambda used, error: (-used, error))
    assert bits is not None  # the lowest level alone is within the limit: checked above
    return bits


def levels_under(
    scores: Sequence[float],
    levels: Sequence[int],
    limit: float,
    bytes_of: Callable[[int, int], int],
    sizes: Sequence[int],
) -> list[int] | None:
    """Share out levels so that the real bytes stay at or below ``limit``.

    The least weighted error of ``many_levels`` decides, counted with the physical bits that a block gets at a level; so
    no block could be promoted further within the limit. Of equal errors the smaller file is taken.

    Args:
        scores: one score a block.
        levels: ascending nominal bits.
        limit: bytes for all blocks together.
        bytes_of: function that gives the bytes of a block at a level.
        sizes: number of weights of each block.

    Returns:
        Bits of each block, or None when even the lowest level does not fit.
    """
    weights = error_weights(scores)
    table = {(i, level): bytes_of(i, level) for i in range(len(sizes)) for level in levels}

    def cost(block: int, level: int) -> tuple[float, float]:
        used = table[block, level]
        return float(used), weights[block] * sizes[block] * 4.0 ** (-8.0 * used / sizes[block])

    return _search(scores, levels, cost, limit, lambda used, error: (error, used))


def error_weights(scores: Sequence[float]) -> list[float]:
    """w_l = 4^(SPREAD_BITS n_l), n_l the score scaled to [0, 1] over the blocks (0 when all are equal)."""
    low, high = min(scores), max(scores)
    span = high - low
    return [4.0 ** (SPREAD_BITS * ((score - low) / span if span > 0 else 0.0)) for score in scores]


def check_range(budget: float, low: float, high: float) -> None:
    """Refuse a nominal budget outside the levels.

    Raises:
        InputError: the sentence gives the range.
    """
    if not low <= budget <= high:
        raise InputError(
            f"A budget of {budget:g} nominal bits is out of reach: the levels allow {low:g} to {high:g}; "
            "change --budget or --levels."
        )


def _search(
    scores: Sequence[float],
    levels: Sequence[int],
    cost: Callable[[int, int], tuple[float, float]],
    limit: float,
    objective: Callable[[float, float], tuple[float, float]],
) -> list[int] | None:
    """The order-keeping assignment within ``limit`` with the least objective; cost gives (used, error)."""
    order = rank_blocks(scores)
    falling = sorted(levels, reverse=True)
    count = len(order)
    # Cumulated along the ranking, so that a stretch at one level costs two look-ups.
    used_to = [list(accumulate((cost(i, level)[0] for i in order), initial=0.0)) for level in falling]
    error_to = [list(accumulate((cost(i, level)[1] for i in order), initial=0.0)) for level in falling]
    best: tuple[float, float] | None = None
    chosen: tuple[int, ...] | None = None
    for cuts in combinations_with_replacement(range(count + 1), len(falling) - 1):
        ends = (*cuts, count)
        used = error = 0.0
        start = 0
        for k, end in enumerate(ends):
            used += used_to[k][end] - used_to[k][start]
            error += error_to[k][end] - error_to[k][start]
            start = end
        if used <= limit and (best is None or objective(used, error) < best):
            best, chosen = objective(used, error), ends
    if chosen is None:
        return None
    bits = [0] * count
    start = 0
    for level, end in zip(falling, chosen, strict=True):
        for rank in range(start, end):
            bits[order[rank]] = level
        start = end
    return bits
