"""Choose one option for each item so that the sum of losses is small and the sum of costs stays within a limit.

A Lagrange multiplier prices the cost: at a price, each item takes the option with the least ``loss + price * cost``, a
corner of its lower convex hull. Bisection finds the smallest price that keeps the limit. The rest of the
limit is spent on single changes, the best loss for the cost first, options inside the hulls included.

One price for all items leaves much of the limit over where an item is large, as an embedding is: its next corner may
cost a twentieth of the limit. So every choice of options of the two largest is tried, with a price for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

# An item is large if its options differ by this share of the limit, and at most so many are large.
_LARGE, _MOST_LARGE = 0.01, 2


@dataclass(frozen=True)
class Option:
    """One way to store an item.

    Attributes:
        name: name of the option.
        cost: cost in bytes, or in bits.
        loss: loss in nats a token.
    """

    name: str
    cost: float
    loss: float


def solve(items: Sequence[Sequence[Option]], limit: float) -> list[int] | None:
    """Choose options.

    Args:
        items: options of each item, at least one.
        limit: upper limit of the sum of costs.

    Returns:
        Index of the chosen option of each item, or None when even the cheapest options exceed the limit.
    """
    if sum(min(option.cost for option in options) for options in items) > limit:
        return None
    width = max(len(options) for options in items)
    costs = np.full((len(items), width), np.inf)
    losses = np.full((len(items), width), np.inf)
    for row, options in enumerate(items):
        costs[row, : len(options)] = [option.cost for option in options]
        losses[row, : len(options)] = [option.loss for option in options]
    best = min(
        (_spend_the_rest(some, losses, _by_price(some, losses, limit), limit) for some in _branches(costs, limit)),
        key=lambda chosen: float(losses[np.arange(len(items)), chosen].sum()),
    )
    return [int(index) for index in best]


def _branches(costs: np.ndarray, limit: float) -> Iterator[np.ndarray]:
    """Costs with all options, and then with a single option of each large item; infinite for the others."""
    yield costs
    finite = np.isfinite(costs)
    cheapest = costs.min(axis=1)
    spread = np.where(finite, costs, -np.inf).max(axis=1) - cheapest
    large = [int(row) for row in np.argsort(-spread, kind="stable")[:_MOST_LARGE] if spread[row] > _LARGE * limit]
    if not large:
        return
    for options in product(*(np.flatnonzero(finite[row]) for row in large)):
        fixed = costs.copy()
        for row, option in zip(large, options, strict=True):
            fixed[row] = np.inf
            fixed[row, option] = costs[row, option]
        if fixed.min(axis=1).sum() <= limit:
            yield fixed


def _by_price(costs: np.ndarray, losses: np.ndarray, limit: float) -> np.ndarray:
    rows = np.arange(len(costs))
    finite = np.isfinite(costs)
    priced_costs = np.where(finite, costs, 0.0)

    def at(price: float) -> np.ndarray:
        total = np.where(finite, losses + price * priced_costs, np.inf)
        best = total.min(axis=1, keepdims=True)
        # The cheapest of equal totals, so that a high enough price always keeps the limit.
        return np.where(total <= best, costs, np.inf).argmin(axis=1)

    def keeps(choice: np.ndarray) -> bool:
        return bool(costs[rows, choice].sum() <= limit)

    free = at(0.0)
    if keeps(free):
        return free
    low, high = 0.0, 1e-12
    while not keeps(at(high)):
        low, high = high, high * 16
        if high > 1e30:
            return costs.argmin(axis=1)
    # No number lies between the smallest one and zero, and there the difference alone would never be small enough.
    while low < (middle := (low + high) / 2) < high and high - low > 1e-12 * high:
        if keeps(at(middle)):
            high = middle
        else:
            low = middle
    return at(high)


def _spend_the_rest(costs: np.ndarray, losses: np.ndarray, chosen: np.ndarray, limit: float) -> np.ndarray:
    rows = np.arange(len(costs))
    chosen = chosen.copy()
    while True:
        spare = limit - costs[rows, chosen].sum()
        extra = costs - costs[rows, chosen][:, None]
        gain = losses[rows, chosen][:, None] - losses
        usable = (gain > 0) & (extra <= spare)
        if not usable.any():
            return chosen
        # A change that is better and cheaper at once comes before all others.
        floor = 1e-9 * max(abs(limit), 1.0)
        rate = np.divide(gain, np.maximum(extra, floor), out=np.full_like(gain, -np.inf), where=usable)
        row, option = np.unravel_index(int(rate.argmax()), rate.shape)
        chosen[row] = option
