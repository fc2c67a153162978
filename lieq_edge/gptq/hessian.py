"""H: second moments of the inputs of linear layers, each token weighted by how much the loss depends on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..blockwise.precision import fast_products
from ..errors import InputError

Floats = npt.NDArray[np.float32]

HELD_OUT = 4
"""One sequence in so many is held out: it judges rounding and predicts losses, but does not enter H."""

KEPT = 0.4
"""Share of the tokens that enter H; see ``tokens_of``."""

# Columns that are mirrored at a time.
_MIRRORED = 256
# Rows of H in one product, which starts at the diagonal, so that little more than half of H is computed.
_MULTIPLIED = 256


class Hessian:
    """H = sum_t w_t x_t x_t^T over the tokens to learn from, and the held-out tokens one by one.

    There are far fewer held-out tokens than columns of a wide matrix, so an H of theirs would take more memory.

    Attributes:
        learned: H over the tokens to learn from, float32 ``(columns, columns)``; while tokens are added, only its upper
            triangle is up to date.
    """

    def __init__(self, learned: Floats, held_out: Floats | None = None, *, divided: bool = True) -> None:
        """Wrap an H that was computed before.

        Args:
            learned: H, float32 ``(columns, columns)``.
            held_out: sqrt(w_t) x_t of the held-out tokens, float32 ``(tokens, columns)``.
            divided: False if nothing will be judged: held-out tokens are then added to H.
        """
        self.learned = learned
        self._parts = [] if held_out is None else [held_out]
        self._divided = divided

    @classmethod
    def zeros(cls, columns: int, *, divided: bool = True) -> Hessian:
        """H of no tokens."""
        return cls(np.zeros((columns, columns), np.float32), divided=divided)

    @property
    def held_out(self) -> Floats:
        """sqrt(w_t) x_t of the held-out tokens, float32 ``(tokens, columns)``."""
        if len(self._parts) != 1:
            parts = self._parts or [np.empty((0, len(self.learned)), np.float32)]
            self._parts = [np.concatenate(parts)]
        return self._parts[0]

    @property
    def trace(self) -> float:
        """Trace of H over all tokens."""
        return float(self.learned.trace() + np.square(self.held_out).sum(dtype=np.float64))

    def merge(self) -> Floats:
        """Add the held-out tokens to ``learned``, with products as in ``add``, and return it."""
        if self._parts:
            _add_products(self.learned, _as_multiplied(torch.from_numpy(self.held_out)))
            self._parts = []
            self.whole()
        return self.learned

    def add(self, x: Tensor, weights: Tensor, *, held_out: bool) -> None:
        """Add tokens to the upper triangle of H, or to the held-out tokens.

        Products are in bfloat16 under autocast to it; their sum is float32.

        Args:
            x: inputs ``(T, columns)``.
            weights: w_t ``(T,)``.
            held_out: True if the tokens are held out.
        """
        scaled = _scaled(x, weights)
        if held_out and self._divided:
            self._parts.append(scaled.numpy())
        else:
            _add_products(self.learned, _as_multiplied(scaled))

    def whole(self) -> Hessian:
        """This object, after its upper triangle was copied to the lower one in place."""
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
    """Rows in the precision of products: bfloat16 under autocast, otherwise float32."""
    return rows.bfloat16() if torch.is_autocast_enabled("cpu") else rows.float()


def _add_products(total: Floats, rows: Tensor) -> None:
    """Add ``rows^T rows`` to the upper triangle of ``total``, and to a little more than that."""
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
    """C = sum_t w_t r_t x_t^T of inputs x_t and wanted outputs, or wanted changes of outputs, r_t.

    Attributes:
        learned: C over the tokens to learn from, float32 ``(rows, columns)``.
    """

    def __init__(self, learned: Floats) -> None:
        """Wrap a C that was computed before, without held-out tokens."""
        self.learned = learned
        self._parts: list[Floats] = []

    @classmethod
    def zeros(cls, rows: int, columns: int) -> CrossMoment:
        """C of no tokens."""
        return cls(np.zeros((rows, columns), np.float32))

    @property
    def held_out(self) -> Floats:
        """sqrt(w_t) r_t of the held-out tokens, float32 ``(tokens, rows)``."""
        return np.concatenate(self._parts or [np.empty((0, len(self.learned)), np.float32)])

    def add(self, x: Tensor, wanted: Tensor, weights: Tensor, *, held_out: bool) -> None:
        """Add tokens.

        Args:
            x: inputs ``(T, columns)``.
            wanted: r_t ``(T, rows)``.
            weights: w_t ``(T,)``.
            held_out: True if the tokens are held out.
        """
        if held_out:
            self._parts.append(_scaled(wanted, weights).numpy())
        else:
            left = _as_multiplied(wanted * weights[:, None])
            _add_product(torch.from_numpy(self.learned), left, _as_multiplied(x))

    def subtract(self, matrix: Floats, hessian: Hessian) -> None:
        """Replace the wanted outputs r_t by the wanted changes of the outputs, r_t - W x_t.

        Args:
            matrix: W ``(rows, columns)``.
            hessian: H of the same tokens, symmetric (``whole``).
        """
        weights = torch.from_numpy(matrix)
        torch.from_numpy(self.learned).addmm_(weights, torch.from_numpy(hessian.learned), alpha=-1)
        # A sum over all held-out tokens only decides how much of a change is taken, so fast products are exact enough.
        with fast_products():
            outputs = torch.from_numpy(hessian.held_out) @ weights.T
        self._parts = [torch.from_numpy(self.held_out).sub_(outputs).numpy()]


@dataclass(frozen=True)
class Tokens:
    """Chosen tokens of a batch of sequences, either to learn from or held out.

    Attributes:
        index: indices into the batch's flattened tokens.
        weights: weights of the chosen tokens, float32, raised to make up for tokens that were left out.
        held_out: True if they are held out.
    """

    index: Tensor
    weights: Tensor
    held_out: bool

    def of(self, x: Tensor) -> Tensor:
        """The rows ``(tokens, columns)`` of these tokens in a batch ``(b, T, columns)``."""
        return x.flatten(0, 1).index_select(0, self.index)


def squared_norms(x: Tensor) -> npt.NDArray[np.float64]:
    """|x_t|^2 ``(...)`` of inputs ``(..., columns)``."""
    norms: npt.NDArray[np.float64] = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).double().numpy()
    return np.square(norms)


def tokens_of(
    batch: slice, norms: npt.NDArray[np.float64], weights: Tensor, held_out: frozenset[int], kept: float = KEPT
) -> list[Tokens]:
    """The tokens of the sequences ``batch`` that enter H, chosen by how much they add to it.

    Contributions are very uneven (a quarter of the tokens often carries nine tenths of the sum), and each token costs
    the same. So each is kept at a rate proportional to ``w_t |x_t|^2``, evenly spread, and its weight is divided by
    that rate; the expected sum is unchanged.

    Rates by w_t alone would leave the few tokens that all others attend to to chance: the loss depends a hundred times
    less on an error there, but one matrix receives inputs there that are a thousand times as large.

    Args:
        batch: the sequences.
        norms: |x_t|^2 of their inputs, ``(b, T)``.
        weights: their w_t ``(b, T)``.
        held_out: indices of the held-out sequences.
        kept: share of the tokens that is kept.
    """
    # In numpy, because these are many steps on few numbers.
    token_weights = weights.double().numpy()
    energies = norms * token_weights
    parts = []
    for judged in (False, True):
        rows = np.array([i for i in range(len(token_weights)) if (batch.start + i in held_out) == judged], np.int64)
        if len(rows) == 0:
            continue
        row_weights, added = token_weights[rows].reshape(-1), energies[rows].reshape(-1)
        limit = _limit(added, kept)
        rate = np.minimum(added / limit, 1.0) if limit > 0 else np.ones_like(row_weights)
        steps = np.floor(rate.cumsum() + 0.5)
        chosen = np.flatnonzero(np.diff(steps, prepend=0.0) > 0)
        length = token_weights.shape[1]
        index = rows[chosen // length] * length + chosen % length
        counts = (row_weights[chosen] / rate[chosen]).astype(np.float32)
        parts.append(Tokens(torch.from_numpy(index), torch.from_numpy(counts), judged))
    return parts


def _limit(energies: npt.NDArray[np.float64], share: float) -> float:
    """The contribution from which tokens are always kept, so that ``share`` of all are; 0 keeps every token."""
    ordered = np.sort(energies)[::-1]
    # If the k largest are always kept and the limit is l, k + (sum of the others) / l tokens are kept.
    rest = ordered[::-1].cumsum()[::-1]
    count = len(energies)
    limits = rest / np.maximum(share * count - np.arange(count), 1e-9)
    fitting = np.flatnonzero(limits >= ordered)
    return float(limits[fitting[0]]) if len(fitting) else 0.0


def importance_of(diagonal: Floats) -> Floats:
    """Importance of each column, ``(columns,)``: the diagonal of H, raised above zero for columns without input."""
    floored: Floats = np.maximum(diagonal, 1e-6 * diagonal.mean()).astype(np.float32)
    return floored if floored.any() else np.ones_like(floored)


def held_out_sequences(count: int) -> frozenset[int]:
    """Indices of the held-out ones of ``count`` sequences: the last of every ``HELD_OUT``, and at least one.

    Raises:
        InputError: there are fewer than two sequences.
    """
    if count < 2:
        raise InputError(
            "Feedback and the metric loss need two windows of calibration text; raise --calibration-tokens."
        )
    return frozenset(range(HELD_OUT - 1, count, HELD_OUT)) or frozenset({count - 1})


def count_held_out(shape: tuple[int, ...]) -> int:
    """Number of held-out tokens among tokens ``(n, T)``."""
    return len(held_out_sequences(shape[0])) * shape[1]


def weighted_moments(sequences: Iterable[Tensor], weights: Tensor) -> Hessian:
    """H of inputs that come one sequence at a time.

    Args:
        sequences: inputs ``(T, columns)`` of each sequence in turn.
        weights: w_t, ``(n, T)``.
    """
    held_out = held_out_sequences(len(weights))
    hessian: Hessian | None = None
    for sequence, x in enumerate(sequences):
        if hessian is None:
            hessian = Hessian.zeros(x.shape[1])
        sequence_weights = weights[sequence : sequence + 1]
        for tokens in tokens_of(slice(sequence, sequence + 1), squared_norms(x[None]), sequence_weights, held_out):
            hessian.add(tokens.of(x[None]), tokens.weights, held_out=tokens.held_out)
    assert hessian is not None
    return hessian.whole()
