"""Rounding the columns of one sub-block, one after the other, for several candidate scales at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..codec import Layout
from .scales import Candidates


class Levels:
    """Rounds to the levels of a type."""

    def __init__(self, layout: Layout) -> None:
        self._lowest = float(layout.levels[layout.lowest_code])
        self._highest = float(layout.levels[-1])
        self._first = float(layout.levels[0])
        self._table: torch.Tensor | None = None
        if not layout.is_linear:
            self._table = torch.tensor(layout.levels, dtype=torch.float32)
            self._middles = (self._table[1:] + self._table[:-1]) / 2

    def nearest_(self, scaled: torch.Tensor) -> None:
        """Replace each number by the nearest level."""
        if self._table is None:
            scaled.round_().clamp_(self._lowest, self._highest)
        else:
            scaled.copy_(self._table[torch.bucketize(scaled, self._middles)])

    def codes(self, levels: torch.Tensor) -> torch.Tensor:
        """The codes (uint8) of exact levels."""
        if self._table is None:
            return (levels - self._first).to(torch.uint8)
        return torch.bucketize(levels, self._middles).to(torch.uint8)


@dataclass(frozen=True)
class Choice:
    """The best candidate of each row.

    Attributes:
        levels: chosen levels, ``(columns, rows)``.
        errors: the weights minus the chosen values, like ``levels``.
        pick: index of the candidate, ``(rows,)``.
        cost: sum_j R_jj^2 (target_j - value_j)^2, ``(rows,)``.
    """

    levels: torch.Tensor
    errors: torch.Tensor
    pick: torch.Tensor
    cost: torch.Tensor


def round_sub_block(
    weights: torch.Tensor,
    targets: torch.Tensor,
    feedback: torch.Tensor,
    variances: list[float],
    candidates: Candidates,
    levels: Levels,
) -> Choice:
    """Round each column to the level nearest to its target, which gathers the errors of the columns before it.

    All candidates are rounded in full, feedback included, and the one with the least cost wins in each row: a scale
    is judged by what feedback makes of it. This loop is where the time goes, hence views made once and results
    written in place.

    Args:
        weights: ``(columns, rows)``, what errors are counted from.
        targets: ``(columns, rows)``, the weights and the feedback of all earlier columns.
        feedback: the sub-block's square of M.
        variances: R_jj^2 of the columns.
        candidates: scales and mins, ``(candidates, rows)``.
        levels: of the type.
    """
    columns, rows = targets.shape
    scales, mins = candidates.scales, candidates.mins
    count = len(scales)
    inverses = torch.where(scales == 0, torch.zeros(()), scales.reciprocal())
    offsets, negated = (mins * inverses, -mins) if mins is not None else (None, scales)
    target = targets[:, None].expand(columns, count, rows).contiguous()
    chosen, errors = torch.empty_like(target), torch.empty_like(target)
    flat = target.view(columns, -1)
    value, cost = torch.empty(count, rows), torch.zeros(count, rows)
    views = zip(target.unbind(0), chosen.unbind(0), errors.unbind(0), weights.unbind(0), strict=True)
    for j, (wanted, level, error, weight) in enumerate(views):
        if offsets is None:
            torch.mul(wanted, inverses, out=level)
            levels.nearest_(level)
            torch.mul(level, scales, out=value)
        else:
            torch.addcmul(offsets, wanted, inverses, out=level)
            levels.nearest_(level)
            torch.addcmul(negated, level, scales, out=value)
        torch.sub(weight, value, out=error)
        miss = value.sub_(wanted)
        cost.addcmul_(miss, miss, value=variances[j])
        if j + 1 < columns:
            flat[j + 1 :].addr_(feedback[j, j + 1 :], error.view(-1))
    least, pick = cost.min(0)
    if count == 1:
        return Choice(chosen[:, 0], errors[:, 0], pick, least)
    index = pick[None, None].expand(columns, 1, rows)
    return Choice(chosen.gather(1, index)[:, 0], errors.gather(1, index)[:, 0], pick, least)
