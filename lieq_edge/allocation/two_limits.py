"""Choose one option for each item so that the sum of losses is least under two limits: bytes and time.

Branch and bound. The relaxation, in which an item may take shares of several options, is a linear program; its solution
splits two items at most, one for each limit. The best rounding of these is a choice, and the sum of the relaxation is a
bound below every choice. Halves of a split item's options are tried apart, where the bound is lowest first, until the
best choice is proven to be within ``GAP`` of the bound. Where ``_NODES`` relaxations do not suffice, the bound says how
far from the best the choice can be. The same numbers give the same choice, however fast the machine is.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from .knapsack import Option

GAP = 2e-4
"""Share of the loss by which a choice may be above the best one."""

_NODES = 400
_MOST_ROUNDINGS = 20_000
_SPLIT = 1e-7

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """A choice of options.

    Attributes:
        chosen: index of the option of each item.
        loss: sum of their losses.
        bound: sum of losses that no choice is below.
    """

    chosen: tuple[int, ...]
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """Share of the loss by which it may be above the best choice."""
        return (self.loss - self.bound) / abs(self.loss) if self.loss else 0.0


def solve_two(
    items: Sequence[Sequence[Option]], times: Sequence[Sequence[float]], limit: float, seconds: float
) -> Choice | None:
    """Choose options under both limits.

    Args:
        items: options of each item, at least one.
        times: seconds of each option.
        limit: upper limit of the sum of costs.
        seconds: upper limit of the sum of times.

    Returns:
        The choice; None if none was found that keeps both limits.
    """
    losses = [[option.loss for option in options] for options in items]
    costs = [[option.cost for option in options] for options in items]
    return _Search(losses, [(costs, limit), (times, seconds)]).run()


def fastest(items: Sequence[Sequence[Option]], times: Sequence[Sequence[float]], limit: float) -> Choice | None:
    """The choice with the least sum of times, which is its ``loss``, whose costs keep the limit; None if none does."""
    costs = [[option.cost for option in options] for options in items]
    return _Search(times, [(costs, limit)]).run()


class _Search:
    """Branch and bound over choices."""

    def __init__(
        self, aims: Sequence[Sequence[float]], limits: Sequence[tuple[Sequence[Sequence[float]], float]]
    ) -> None:
        width = max(len(each) for each in aims)
        self.aims = _table(aims, width)
        self.limits = [(_table(values, width), most) for values, most in limits]
        self.all = np.array([[index < len(each) for index in range(width)] for each in aims])
        self.rows = np.arange(len(aims))
        self.best: Indices | None = None
        self.least = np.inf

    def run(self) -> Choice | None:
        heap: list[tuple[float, int, Mask, Floats]] = []
        bound, count = self._push(heap, self.all, 0), 1
        bound = np.inf if bound is None else bound
        while heap:
            bound = heap[0][0]
            proven = self.best is not None and self.least - bound <= GAP * abs(self.least)
            if proven or count >= _NODES:
                break
            _, _, mask, shares = heapq.heappop(heap)
            for part in self._halves(mask, shares):
                self._push(heap, part, count)
                count += 1
            bound = self.least
        if self.best is None:
            return None
        return Choice(tuple(int(i) for i in self.best), self.least, min(float(bound), self.least))

    def _push(self, heap: list[tuple[float, int, Mask, Floats]], mask: Mask, number: int) -> float | None:
        """Solve the relaxation of what a mask allows, and note it if it may hold a better choice."""
        solved = self._relax(mask)
        if solved is None:
            return None
        bound, shares = solved
        if bound < self.least:
            self._round(mask, shares)
            whole = (shares > _SPLIT).sum() == len(self.rows)
            # A whole solution may break a limit by the solver's tolerance.
            if not (whole and self._keeps(shares.argmax(axis=1))) and (mask.sum(axis=1) > 1).any():
                heapq.heappush(heap, (bound, number, mask, shares))
        return bound

    def _relax(self, mask: Mask) -> tuple[float, Floats] | None:
        """The least sum, and each option's share; None if nothing that is allowed keeps the limits."""
        from scipy.optimize import linprog
        from scipy.sparse import csr_array

        # What no choice can avoid is taken off, so that the solver's tolerances are relative to what is left.
        aims, unit = _spread(self.aims, mask)
        rows, most = [], []
        for values, limit in self.limits:
            spread, _ = _spread(values, mask)
            spare = limit - np.where(mask, values, np.inf).min(axis=1).sum()
            if spare < 0:
                return None
            scale = max(spare, float(spread[mask].max()), 1e-300)
            rows.append(spread[mask] / scale)
            most.append(spare / scale)
        owner = np.nonzero(mask)[0]
        one_each: Any = csr_array((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(len(mask), len(owner)))
        solved: Any = linprog(
            aims[mask] / unit, A_ub=np.array(rows), b_ub=most, A_eq=one_each, b_eq=np.ones(len(mask)), bounds=(0, 1)
        )
        if solved.x is None:
            return None
        shares = np.zeros(mask.shape)
        shares[mask] = solved.x
        return float(np.where(mask, self.aims, np.inf).min(axis=1).sum() + solved.fun * unit), shares

    def _round(self, mask: Mask, shares: Floats) -> None:
        """Try all options of the split items, with the whole options of the others."""
        choice = shares.argmax(axis=1)
        split = np.nonzero((shares > _SPLIT).sum(axis=1) > 1)[0]
        options = [np.nonzero(mask[row])[0] for row in split]
        while options and prod(len(each) for each in options) > _MOST_ROUNDINGS:
            options, split = options[1:], split[1:]
        for tried in product(*options):
            choice[split] = tried
            self._offer(choice)
        if self.best is not None:
            self._improve()

    def _offer(self, choice: Indices) -> bool:
        total = float(self.aims[self.rows, choice].sum())
        if total >= self.least or not self._keeps(choice):
            return False
        self.best, self.least = choice.copy(), total
        return True

    def _keeps(self, choice: Indices) -> bool:
        return all(values[self.rows, choice].sum() <= most for values, most in self.limits)

    def _improve(self) -> None:
        """Change single items of the best choice while that keeps the limits and lowers the sum."""
        while True:
            assert self.best is not None
            chosen = self.best
            gain = self.aims[self.rows, chosen][:, None] - self.aims
            usable = self.all & (gain > 0)
            for values, most in self.limits:
                spare = most - values[self.rows, chosen].sum()
                usable &= values - values[self.rows, chosen][:, None] <= spare
            if not usable.any():
                return
            row, option = np.unravel_index(int(np.where(usable, gain, -np.inf).argmax()), gain.shape)
            changed = chosen.copy()
            changed[row] = option
            if not self._offer(changed):
                return

    def _halves(self, mask: Mask, shares: Floats) -> list[Mask]:
        """The options of the most evenly split item, in two parts; together they allow what the mask allows."""
        row = int(np.where(mask.sum(axis=1) > 1, shares.max(axis=1), np.inf).argmin())
        values = self.limits[-1][0][row] if len(self.limits) > 1 else self.limits[0][0][row]
        order = [int(i) for i in np.argsort(values, kind="stable") if mask[row, i]]
        taken = [place for place, i in enumerate(order) if shares[row, i] > _SPLIT]
        middle = min(taken[0] + 1, len(order) - 1)
        parts = []
        for allowed in (order[:middle], order[middle:]):
            part = mask.copy()
            part[row] = False
            part[row, allowed] = True
            parts.append(part)
        return parts


def _table(values: Sequence[Sequence[float]], width: int) -> Floats:
    """Rows of one length; what is added is not allowed by the mask."""
    return np.array([[*each, *[0.0] * (width - len(each))] for each in values], dtype=np.float64)


def _spread(values: Floats, mask: Mask) -> tuple[Floats, float]:
    """How far each option is above the least of its item, and a unit of that size."""
    spread = values - np.where(mask, values, np.inf).min(axis=1, keepdims=True)
    inside = spread[mask]
    positive = inside[inside > 0]
    return spread, max(float(np.median(positive)), 1e-6 * float(positive.max())) if len(positive) else 1.0
