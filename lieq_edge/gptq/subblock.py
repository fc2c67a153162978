"""Round the columns of one sub-block, one after the other, for several candidate scales at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..gguf.blocks import Layout
from .kernel import round_columns
from .scales import Candidates
from .vectors import Tables, round_vectors


class Levels:
    """The levels of a type.

    Attributes:
        table: levels in the form that ``kernel.round_columns`` expects.
        vectors: codebook of types whose codes are chosen in vectors, else None.
    """

    def __init__(self, layout: Layout) -> None:
        used = layout.levels[layout.lowest_code :]
        self.table = np.array([used[0], used[-1]] if layout.is_linear else used, np.float32)
        self.vectors = Tables.of(layout.book) if layout.book is not None else None
        self._first = float(layout.levels[0])
        self._middles = None if layout.is_linear else torch.from_numpy((self.table[1:] + self.table[:-1]) / 2)

    def codes(self, levels: torch.Tensor) -> torch.Tensor:
        """Codes (uint8) of ``levels``, which must be exact."""
        if self._middles is None:
            return (levels - self._first).to(torch.uint8)
        return torch.bucketize(levels, self._middles).to(torch.uint8)


@dataclass(frozen=True)
class Choice:
    """The best candidate of each row.

    Attributes:
        levels: chosen levels, ``(columns, rows)``.
        errors: weights minus chosen values, like ``levels``.
        pick: index of the candidate, int64 ``(rows,)``.
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
    variances: torch.Tensor,
    candidates: Candidates,
    levels: Levels,
) -> Choice:
    """Round each column (or vector) to what is nearest to its target, which includes the errors of the columns before.

    All candidates are rounded in full, feedback included, and each row takes the one with the least cost.

    Args:
        weights: ``(columns, rows)``; errors are differences from these.
        targets: weights plus the feedback of all earlier columns, ``(columns, rows)``.
        feedback: the part of M for the sub-block, ``(columns, columns)``.
        variances: R_jj^2 of the columns, ``(columns,)``.
        candidates: scales and mins, ``(candidates, rows)``.
        levels: levels of the type.
    """
    if levels.vectors is not None:
        given = (weights, targets, feedback, variances, candidates.scales)
        found = round_vectors(*(tensor.contiguous().numpy() for tensor in given), tables=levels.vectors)
        return Choice(*map(torch.from_numpy, found))
    columns, rows = targets.shape
    mins = candidates.mins if candidates.mins is not None else candidates.scales[:0]
    chosen, errors = np.empty((columns, rows), np.float32), np.empty((columns, rows), np.float32)
    picks, costs = np.empty(rows, np.int64), np.empty(rows, np.float32)
    tensors = (weights, targets, feedback, variances, candidates.scales, mins)
    arrays = (tensor.contiguous().numpy() for tensor in tensors)
    round_columns(*arrays, levels.table, chosen, errors, picks, costs)
    return Choice(*map(torch.from_numpy, (chosen, errors, picks, costs)))
