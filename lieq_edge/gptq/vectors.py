"""Rounding of vectors to a codebook with feedback from each to the next (LDLQ with blocks, QuIP#, arXiv 2402.04396).

With the columns of a sub-block cut into units of g, and M_u the part of M (``factor``) on unit u, the error of rows is

    tr(E H E^T) = sum_u (x_u - q_u) D_u (x_u - q_u)^T,    D_u = M_u diag(R_jj^2) M_u^T,

where x_u is w_u plus the feedback of earlier units, times M_u^-1. So a unit takes the q_u with the least such cost,
and its error is fed back to later ones. No factor but the one that scalar types use is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..gguf.blocks.books import Book
from .vector_kernel import round_vectors_of_rows

Floats = npt.NDArray[np.float32]

# Weights whose signs depend on each other where they are not free.
_SIGNS = 8


@dataclass(frozen=True)
class Tables:
    """A codebook as the kernel searches it: each point is a pair of halves, of which there are far fewer.

    Attributes:
        unit: columns that are chosen together.
        even: the number of minus signs of a unit must be even.
        magnitudes: magnitudes of levels, ascending.
        points: indices of the magnitudes of each point, ``(points, size)``.
        first, second: index in ``words`` of the halves of each point.
        words: different halves, ``(2, words, size / 2)``.
    """

    unit: int
    even: bool
    magnitudes: Floats
    points: npt.NDArray[np.uint8]
    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    words: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, book: Book) -> Tables:
        """The tables of a codebook."""
        # In order of their first halves, so that these stay in registers.
        points = book.points[np.lexsort(book.points.T[::-1])]
        half = book.size // 2
        sides = [np.unique(side, axis=0, return_inverse=True) for side in (points[:, :half], points[:, half:])]
        words = np.zeros((2, max(len(found) for found, _ in sides), half), np.uint8)
        for side, (found, _) in enumerate(sides):
            words[side, : len(found)] = found
        first, second = (numbers.reshape(-1).astype(np.int32) for _, numbers in sides)
        magnitudes = np.array(book.magnitudes, np.float32) / np.float32(book.divisor)
        unit = book.size if book.free_signs else _SIGNS
        return cls(unit, not book.free_signs, magnitudes, points, first, second, words)


def round_vectors(
    weights: Floats, targets: Floats, feedback: Floats, variances: Floats, scales: Floats, *, tables: Tables
) -> tuple[Floats, Floats, npt.NDArray[np.int64], Floats]:
    """``subblock.round_sub_block`` for a type with a codebook, on arrays of the same shapes.

    Returns:
        Levels and errors ``(columns, rows)``, the picked candidate and the cost of each row ``(rows,)``.
    """
    columns, rows = targets.shape
    levels, errors = np.empty((columns, rows), np.float32), np.empty((columns, rows), np.float32)
    picks, costs = np.empty(rows, np.int64), np.empty(rows, np.float32)
    metrics = np.stack(
        [
            (feedback[part, part] * variances[part]) @ feedback[part, part].T
            for part in (slice(start, start + tables.unit) for start in range(0, columns, tables.unit))
        ]
    )
    round_vectors_of_rows(
        weights,
        targets,
        feedback,
        metrics,
        scales,
        tables.magnitudes,
        tables.points,
        tables.first,
        tables.second,
        tables.words,
        tables.even,
        levels,
        errors,
        picks,
        costs,
    )
    return levels, errors, picks, costs
