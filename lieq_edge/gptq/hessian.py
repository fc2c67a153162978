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
# Rows of H that are one product: it begins at the diagonal, so that little more than a half of H is multiplied.
_MULTIPLIED = 256

KEPT = 0.4
"""Share of the tokens that enter H; see ``tokens_of``."""


class Hessian:
    """H = sum_t w_t x_t x_t^T over the tokens to learn from, and those held out one by one.

    They are far fewer than the columns of a wide matrix, so that their H would take more memory than they do.
    """

    def __init__(self, learned: Floats, held_out: Floats | None = None, *, divided: bool = True) -> None:
        """H that is there already.

        Args:
            learned: H, float32 ``(columns, columns)``.
            held_out: sqrt(w_t) x_t, float32 ``(tokens, columns)``.
            divided: False when nothing will be judged: tokens that are held out are then added to H.
        """
        self.learned = learned
        self._parts = [] if held_out is None else [held_out]
        self._divided = divided

    @classmethod
    def zeros(cls, columns: int, *, divided: bool = True) -> Hessian:
        """Of no tokens."""
        return cls(np.zeros((columns, columns), np.float32), divided=divided)

    @property
    def held_out(self) -> Floats:
        """sqrt(w_t) x_t of the tokens held out, float32 ``(tokens, columns)``."""
        if len(self._parts) != 1:
            parts = self._parts or [np.empty((0, len(self.learned)), np.float32)]
            self._parts = [np.concatenate(parts)]
        return self._parts[0]

    @property
    def trace(self) -> float:
        """Of H over all tokens."""
        return float(self.learned.trace() + np.square(self.held_out).sum(dtype=np.float64))

    def merge(self) -> Floats:
        """H over all tokens; ``learned`` becomes that. Products are as in ``add``."""
        if self._parts:
            import torch

            _add_products(self.learned, _as_multiplied(torch.from_numpy(self.held_out)))
            self._parts = []
            self.whole()
        return self.learned

    def add(self, x: Tensor, weights: Tensor, *, held_out: bool) -> None:
        """Add tokens: inputs ``(T, columns)`` with their w_t ``(T,)``. Of H only the upper triangle is kept up.

        Products are in bfloat16 under autocast to it; their sum is float32.
        """
        scaled = _scaled(x, weights)
        if held_out and self._divided:
            self._parts.append(scaled.numpy())
        else:
            _add_products(self.learned, _as_multiplied(scaled))

    def whole(self) -> Hessian:
        """These moments with H symmetric, in the same memory."""
        matrix = self.learned
        for start in range(0, len(matrix), _MIRRORED):
            rows = slice(start, start + _MIRRORED)
            square = matrix[rows, rows]
            square[:] = np.triu(square) + np.triu(square, 1).T
            matrix[start + _MIRRORED :, rows] = matrix[rows, start + _MIRRORED :].T
        return self


def _scaled(rows: Tensor, weights: Tensor) -> Tensor:
    """sqrt(w_t) times each row."""
    return rows * weights.sqrt()[:, None]


def _as_multiplied(rows: Tensor) -> Tensor:
    """Rows in the precision of the products that they are for."""
    import torch

    return rows.bfloat16() if torch.is_autocast_enabled("cpu") else rows.float()


def _add_products(total: Floats, rows: Tensor) -> None:
    """Add ``rows^T rows`` to the upper triangle of ``total``, and to a little more than that."""
    import torch

    matrix = torch.from_numpy(total)
    for start in range(0, len(total), _MULTIPLIED):
        part = slice(start, start + _MULTIPLIED)
        _add_product(matrix[part, start:], rows[:, part], rows[:, start:])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left^T right`` to float32 ``total``."""
    if left.dtype == total.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right


class CrossMoment:
    """C = sum_t w_t r_t x_t^T of what an output should be, or change by, r, and the inputs.

    Attributes:
        learned: C over the tokens to learn from, float32 ``(rows, columns)``.
    """

    def __init__(self, learned: Floats) -> None:
        """C of the tokens to learn from; none is held out yet."""
        self.learned = learned
        self._parts: list[Floats] = []

    @classmethod
    def zeros(cls, rows: int, columns: int) -> CrossMoment:
        """Of no tokens."""
        return cls(np.zeros((rows, columns), np.float32))

    @property
    def held_out(self) -> Floats:
        """sqrt(w_t) r_t of the tokens held out, float32 ``(tokens, rows)``."""
        return np.concatenate(self._parts or [np.empty((0, len(self.learned)), np.float32)])

    def add(self, x: Tensor, wanted: Tensor, weights: Tensor, *, held_out: bool) -> None:
        """Add tokens: inputs ``(T, columns)``, wanted outputs ``(T, rows)``, w_t ``(T,)``."""
        if held_out:
            self._parts.append(_scaled(wanted, weights).numpy())
        else:
            import torch

            left = _as_multiplied(wanted * weights[:, None])
            _add_product(torch.from_numpy(self.learned), left, _as_multiplied(x))

    def subtract(self, matrix: Floats, moments: Hessian) -> None:
        """Let r be what the outputs should change by, where it was what they should be: take W x off it.

        Args:
            matrix: W ``(rows, columns)``.
            moments: of the same tokens, whole.
        """
        import torch

        from ..blockwise.precision import fast_products

        own = torch.from_numpy(matrix)
        torch.from_numpy(self.learned).addmm_(own, torch.from_numpy(moments.learned), alpha=-1)
        # What is held out only tells how much of a change to take, by a sum over all of it.
        with fast_products():
            outputs = torch.from_numpy(moments.held_out) @ own.T
        self._parts = [torch.from_numpy(self.held_out).sub_(outputs).numpy()]


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
        return x.flatten(0, 1).index_select(0, self.index)


def squared_norms(x: Tensor) -> npt.NDArray[np.float64]:
    """|x_t|^2 ``(...)`` of inputs ``(..., columns)``."""
    import torch

    norms: npt.NDArray[np.float64] = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).double().numpy()
    return np.square(norms)


def tokens_of(
    batch: slice, norms: npt.NDArray[np.float64], weights: Tensor, held_out: frozenset[int], kept: float = KEPT
) -> list[Tokens]:
    """The tokens of the sequences ``batch`` that are worth a column of a product, by what they add to H.

    That is very uneven (a quarter of the tokens often carries nine tenths of the sum), and H costs the same for
    each. So tokens that add little stand for each other: each is kept at a rate proportional to ``w_t |x_t|^2``, evenly
    spread, and then counts for as much as it was likely to be left out. The sum stays what it was on average.

    By w_t alone the few tokens that everything attends to would be left to chance: the loss minds an error there a
    hundred times less than elsewhere, but one matrix receives inputs a thousand times as large.

    Args:
        batch: the sequences.
        norms: |x_t|^2 of their inputs, ``(b, T)``.
        weights: their w_t ``(b, T)``.
        held_out: sequences that are held out.
        kept: share of the tokens that is taken.
    """
    import torch

    # numpy, for these are many steps on few numbers.
    own = weights.double().numpy()
    energies = norms * own
    parts = []
    for judged in (False, True):
        rows = np.array([i for i in range(len(own)) if (batch.start + i in held_out) == judged], np.int64)
        if len(rows) == 0:
            continue
        mine, added = own[rows].reshape(-1), energies[rows].reshape(-1)
        limit = _limit(added, kept)
        rate = np.minimum(added / limit, 1.0) if limit > 0 else np.ones_like(mine)
        steps = np.floor(rate.cumsum() + 0.5)
        chosen = np.flatnonzero(np.diff(steps, prepend=0.0) > 0)
        length = own.shape[1]
        index = rows[chosen // length] * length + chosen % length
        counts = (mine[chosen] / rate[chosen]).astype(np.float32)
        parts.append(Tokens(torch.from_numpy(index), torch.from_numpy(counts), judged))
    return parts


def _limit(weights: npt.NDArray[np.float64], share: float) -> float:
    """The weight above which tokens are kept for certain, so that ``share`` of them are kept in all; 0 keeps all."""
    ordered = np.sort(weights)[::-1]
    # With the k heaviest kept for certain and limit l, k + (sum of the others) / l tokens are kept.
    rest = ordered[::-1].cumsum()[::-1]
    count = len(weights)
    limits = rest / np.maximum(share * count - np.arange(count), 1e-9)
    fitting = np.flatnonzero(limits >= ordered)
    return float(limits[fitting[0]]) if len(fitting) else 0.0


def importance_of(diagonal: Floats) -> Floats:
    """Importance of each column from the diagonal of its H: that, above zero where a column is never active."""
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


def count_held_out(shape: tuple[int, ...]) -> int:
    """Tokens of the sequences that are held out, of tokens ``(n, T)``."""
    return len(held_out_sequences(shape[0])) * shape[1]


def weighted_moments(sequences: Iterable[Tensor], weights: Tensor) -> Hessian:
    """H of given inputs.

    Args:
        sequences: inputs ``(T, columns)`` of each sequence in turn.
        weights: w_t, ``(n, T)``.
    """
    held_out = held_out_sequences(len(weights))
    found: Hessian | None = None
    for sequence, x in enumerate(sequences):
        if found is None:
            found = Hessian.zeros(x.shape[1])
        own = weights[sequence : sequence + 1]
        for some in tokens_of(slice(sequence, sequence + 1), squared_norms(x[None]), own, held_out):
            found.add(some.of(x[None]), some.weights, held_out=some.held_out)
    assert found is not None
    return found.whole()
