"""Second moments of what linear layers receive, weighted by how much the loss minds each token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]

HELD_OUT = 4
"""One sequence in so many is held out: it judges rounding and predicts losses, and teaches nothing."""


# Columns that are mirrored at a time.
_MIRRORED = 256

KEPT = 0.4
"""Share of the tokens that enter H; see ``tokens_of``."""


@dataclass(frozen=True)
class Moments:
    """H = sum_t w_t x_t x_t^T, float32 ``(columns, columns)``: over the tokens to learn from, and those held out.

    While tokens are added only the upper triangles are kept up; ``whole`` makes the matrices symmetric.
    """

    learned: Floats
    held_out: Floats

    @classmethod
    def zeros(cls, columns: int) -> Moments:
        """Of no tokens."""
        return cls(np.zeros((columns, columns), np.float32), np.zeros((columns, columns), np.float32))

    @classmethod
    def undivided(cls, columns: int) -> Moments:
        """Of no tokens; nothing will be judged, so ``learned`` and ``held_out`` are one matrix, over all tokens."""
        both = np.zeros((columns, columns), np.float32)
        return cls(both, both)

    @property
    def trace(self) -> float:
        """Of H over all tokens."""
        return float(self.learned.trace() + self.held_out.trace())

    def merge(self) -> Floats:
        """H over all tokens; ``learned`` becomes that, which saves a matrix."""
        if self.held_out is not self.learned:
            np.add(self.learned, self.held_out, out=self.learned)
        return self.learned

    def add(self, x: Tensor, weights: Tensor, *, held_out: bool) -> None:
        """Add tokens to the upper triangle: inputs ``(T, columns)`` with their w_t ``(T,)``."""
        if len(x):
            from scipy.linalg.blas import ssyrk

            scaled = (x.float() * weights.sqrt()[:, None]).numpy()
            total = self.held_out if held_out else self.learned
            # BLAS reads columns first: for it both are turned, and the triangle is the lower one.
            added = ssyrk(1.0, scaled.T, beta=1.0, c=total.T, lower=1, overwrite_c=1)
            assert np.shares_memory(added, total)

    def whole(self) -> Moments:
        """These moments, symmetric, in the same memory."""
        for matrix in (self.learned,) if self.held_out is self.learned else (self.learned, self.held_out):
            for start in range(0, len(matrix), _MIRRORED):
                rows = slice(start, start + _MIRRORED)
                square = matrix[rows, rows]
                square[:] = np.triu(square) + np.triu(square, 1).T
                matrix[start + _MIRRORED :, rows] = matrix[rows, start + _MIRRORED :].T
        return self


@dataclass(frozen=True)
class CrossMoments:
    """C = sum_t w_t r_t x_t^T of what an output should change by, r, and the inputs, float32 ``(rows, columns)``."""

    learned: Floats
    held_out: Floats

    @classmethod
    def zeros(cls, rows: int, columns: int) -> CrossMoments:
        """Of no tokens."""
        return cls(np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32))

    def add(self, x: Tensor, wanted: Tensor, weights: Tensor, *, held_out: bool) -> None:
        """Add tokens: inputs ``(T, columns)``, wanted changes ``(T, rows)``, w_t ``(T,)``."""
        if len(x):
            from scipy.linalg.blas import sgemm

            total = self.held_out if held_out else self.learned
            left, right = (wanted.float() * weights[:, None]).numpy(), x.float().numpy()
            added = sgemm(1.0, right.T, left.T, beta=1.0, c=total.T, trans_b=1, overwrite_c=1)
            assert np.shares_memory(added, total)


@dataclass(frozen=True)
class Tokens:
    """Some tokens of a batch of sequences: those to learn from, or those held out.

    Attributes:
        index: into the batch's flattened tokens.
        weights: theirs, float32; tokens that were left out are made up for.
        held_out: which of the two.
    """

    index: Tensor
    weights: Tensor
    held_out: bool

    def of(self, x: Tensor) -> Tensor:
        """Their inputs ``(tokens, columns)`` from a batch's ``(b, T, columns)``."""
        return x.flatten(0, 1)[self.index]


def tokens_of(batch: slice, weights: Tensor, held_out: frozenset[int]) -> list[Tokens]:
    """The tokens of the sequences ``batch`` that are worth a column of a product, by their w_t ``(b, T)``.

    The weights are very uneven (a quarter of the tokens often carries nine tenths of the sum), and H costs the same for
    each. So tokens of little weight stand for each other: each is kept at a rate proportional to its weight, evenly
    spread, and then counts for as much as it was likely to be left out. The sum stays what it was on average.
    """
    import torch

    parts = []
    for judged in (False, True):
        rows = torch.tensor(
            [i for i in range(len(weights)) if (batch.start + i in held_out) == judged], dtype=torch.int64
        )
        if len(rows) == 0:
            continue
        mine = weights[rows].flatten().double()
        limit = _limit(mine, KEPT)
        rate = (mine / limit).clamp(max=1.0) if limit > 0 else torch.ones_like(mine)
        steps = torch.floor(rate.cumsum(0) + 0.5)
        kept = torch.nonzero(steps.diff(prepend=steps.new_zeros(1)) > 0)[:, 0]
        index = (rows[:, None] * weights.shape[1] + torch.arange(weights.shape[1])).flatten()[kept]
        parts.append(Tokens(index, (mine[kept] / rate[kept]).float(), judged))
    return parts


def _limit(weights: Tensor, share: float) -> float:
    """The weight above which tokens are kept for certain, so that ``share`` of them are kept in all; 0 keeps all."""
    ordered = weights.sort(descending=True).values
    # With the k heaviest kept for certain and limit l, k + (sum of the others) / l tokens are kept.
    rest = ordered.flip(0).cumsum(0).flip(0)
    count = len(weights)
    limits = rest / (share * count - _arange(count, ordered)).clamp(min=1e-9)
    fitting = (limits >= ordered).nonzero()
    return float(limits[fitting[0, 0]]) if len(fitting) else 0.0


def _arange(count: int, like: Tensor) -> Tensor:
    import torch

    return torch.arange(count, dtype=like.dtype)


def importance_of(moments: Floats) -> Floats:
    """Importance of each column from its H: the diagonal, kept above zero for columns that are never active."""
    diagonal = moments.diagonal()
    floored: Floats = np.maximum(diagonal, 1e-6 * diagonal.mean()).astype(np.float32)
    return floored if floored.any() else np.ones_like(floored)


def held_out_sequences(count: int) -> frozenset[int]:
    """Which of ``count`` sequences are held out: the last of every ``HELD_OUT``, and at least one.

    Raises:
        InputError: there are not two.
    """
    if count < 2:
        raise InputError(
            "Feedback and the metric loss need two windows of calibration text; raise --calibration-tokens."
        )
    return frozenset(range(HELD_OUT - 1, count, HELD_OUT)) or frozenset({count - 1})


def weighted_moments(sequences: Iterable[Tensor], weights: Tensor) -> Moments:
    """Moments of given inputs.

    Args:
        sequences: inputs ``(T, columns)`` of each sequence in turn.
        weights: w_t, ``(n, T)``.
    """
    held_out = held_out_sequences(len(weights))
    found: Moments | None = None
    for sequence, x in enumerate(sequences):
        if found is None:
            found = Moments.zeros(x.shape[1])
        for some in tokens_of(slice(sequence, sequence + 1), weights[sequence : sequence + 1], held_out):
            found.add(some.of(x[None]), some.weights, held_out=some.held_out)
    assert found is not None
    return found.whole()
