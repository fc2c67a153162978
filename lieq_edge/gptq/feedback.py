"""Rounding with error feedback into ggml's own block formats.

The codes of a linear layer are chosen one column after the other, and later columns compensate for the error of each,
so that the loss-weighted output error tr(E H E^T), E = W - Q, becomes small. This is GPTQ (arXiv 2210.17323, Eqs 2-3
and Algorithm 1) in the equivalent form of LDLQ (QuIP, arXiv 2307.13304, section 3): with H = R R^T, R upper
triangular, and M = R with each column divided by its diagonal entry,

    tr(E H E^T) = sum_j R_jj^2 |t_j - q_j|^2,    t_j = w_j + sum_{i<j} (w_i - q_i) M_ij,

so column j is rounded to the grid value nearest to its target t_j. No inverse of H is formed. Types with codebooks
round several columns at once (``vectors``).

The grid depends on the block format. At the first column of each group of 256, scales and mins are chosen from the
current weights (``grid_search``): W plus the change that would best compensate for the errors of all earlier columns
if nothing were rounded from here on. Then each sub-block tries the neighbours of its scale and min and takes the one
that rounds best *with* feedback. After the last column, ``sweeps`` refine all columns (``refine``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg.blas import strsm
from torch import Tensor

from ..blockwise.precision import fast_float32
from ..blockwise.workers import Workers
from ..errors import InputError
from ..gguf.blocks import Grid, layout_of, pack
from .factor import BlockFactors, Factor, factorise, factorise_blocks
from .grid_search import first_fields
from .refine import sweep
from .scales import Scales
from .subblock import Levels, round_sub_block

Floats = npt.NDArray[np.float32]

DAMPING = 1.0
"""Share of the diagonal of H that is added to it."""

SWEEPS = 1
"""Number of sweeps. More follow H more closely, and other texts less."""

# Columns whose scales are chosen together.
_GROUP = 256
# Sums over earlier columns have a multiple of this length, because oneDNN compiles code, 0.6 MB, for each length.
# The additional columns have no errors yet.
_LENGTHS = 2048
# Rows that are rounded together: fewer make more calls, more need more memory.
_ROWS = 1536


@dataclass(frozen=True)
class Rounding:
    """Rows rounded with error feedback.

    Attributes:
        packed: ggml's blocks, uint8 ``(rows, bytes of a row)``.
        values: the decoded blocks, bit for bit, float32 ``(rows, columns)``.
        floor: the floor that was used; larger than requested if H was too badly conditioned.
    """

    packed: npt.NDArray[np.uint8]
    values: Floats
    floor: float


def round_with_feedback(
    weights: Floats,
    hessian: npt.NDArray[np.floating],
    type_name: str,
    *,
    damping: float = DAMPING,
    floor: float = 0.0,
    sweeps: int = SWEEPS,
    search: bool = True,
    threads: int | None = None,
) -> Rounding:
    """Round a linear layer's weights so that tr(E H E^T) is small.

    Args:
        weights: float32 ``(rows, columns)``; columns a multiple of the type's block.
        hessian: H = sum_t w_t x_t x_t^T, ``(columns, columns)``, symmetric, positive semi-definite.
        type_name: name of a type in ``gguf.blocks.LAYOUTS``.
        damping: share of the diagonal of H that is added to it.
        floor: share of the mean of that diagonal that is added too; raised as far as the factorisation needs.
        sweeps: number of times that the rounded columns are refined.
        search: try the neighbours of the first scales; False keeps these.
        threads: pieces of rows that are rounded at a time, None for one per core; the bytes do not depend on it.

    Raises:
        InputError: the type does not fit the rows, or has no codes to choose; H is not finite or not
            positive semi-definite.
        ValueError: H and the rows have different numbers of columns.
    """
    columns = weights.shape[1]
    if hessian.shape != (columns, columns):
        raise ValueError(f"H has shape {hessian.shape}, the rows have {columns} columns")
    factor = factorise(hessian, damping, floor)
    return round_by_factor(weights, factor, type_name, sweeps=sweeps, search=search, threads=threads)


def round_by_factor(
    weights: Floats,
    factor: Factor,
    type_name: str,
    *,
    sweeps: int = SWEEPS,
    search: bool = True,
    threads: int | None = None,
    keep_values: bool = True,
) -> Rounding:
    """``round_with_feedback`` with a given factor of H; ``keep_values`` False leaves ``Rounding.values`` empty."""
    layout = layout_of(type_name)
    rows, columns = weights.shape
    if columns % layout.block:
        raise InputError(f"{type_name} stores blocks of {layout.block} weights and does not fit rows of {columns}.")
    blocks = factorise_blocks(factor.hessian, layout.sub) if sweeps else None
    pieces = [weights[start : start + _ROWS] for start in range(0, rows, _ROWS)]

    def round_piece(piece: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
        with fast_float32():  # with workers or without, so that the bytes are the same
            grid = _round_rows(piece, factor, blocks, type_name, sweeps, search)
        return pack(grid), grid.values() if keep_values else np.empty((0, columns), np.float32)

    if threads == 1 or len(pieces) == 1:
        rounded = [round_piece(piece) for piece in pieces]
    else:
        with Workers(threads) as workers:
            rounded = workers.map(round_piece, pieces)
    packed, values = zip(*rounded, strict=True)
    return Rounding(np.concatenate(packed), np.concatenate(values), factor.floor)


def _round_rows(
    weights: Floats, factor: Factor, blocks: BlockFactors | None, type_name: str, sweeps: int, search: bool
) -> Grid:
    """Round some rows; see ``round_with_feedback``."""
    layout = layout_of(type_name)
    rows, columns = weights.shape
    # Columns first, so that each step works on contiguous memory.
    original = torch.from_numpy(np.ascontiguousarray(weights.T, np.float32))
    errors, levels = torch.zeros_like(original), torch.zeros_like(original)
    scales = Scales(layout, rows, columns)
    to_levels = Levels(layout)
    importance = factor.hessian.diagonal().numpy().copy()
    for first in range(0, columns, _GROUP):
        last = min(first + _GROUP, columns)
        within = factor.feedback[first:last, first:last]
        before = min(-(-first // _LENGTHS) * _LENGTHS, columns)
        pull = factor.feedback[:before, first:last].T @ errors[:before]
        current = original[first:last] + _solved(within, pull)
        scales.fill(first_fields(layout, current, importance[first:last]), first)
        targets = pull.add_(original[first:last])
        for start in range(first, last, layout.sub):
            stop = start + layout.sub
            here, part = slice(start - first, stop - first), slice(start, stop)
            candidates = scales.candidates(start // layout.sub, search=search)
            choice = round_sub_block(
                original[part], targets[here], within[here, here], factor.variances[part], candidates, to_levels
            )
            scales.take(start // layout.sub, candidates, choice.pick)
            levels[part], errors[part] = choice.levels, choice.errors
            if stop < last:
                targets[stop - first :].addmm_(within[here, stop - first :].T, choice.errors)
    for _ in range(sweeps):
        assert blocks is not None
        sweep(original, factor.hessian, blocks, scales, levels, errors, _GROUP)
    return scales.grid(to_levels.codes(levels))


def _solved(within: Tensor, pull: Tensor) -> Tensor:
    """X with M^T X = ``pull`` ``(columns, rows)``, for a square M on the diagonal of ``Factor.feedback``."""
    # Column-major BLAS sees the transposes and solves X^T M = pull^T. It takes a third of PyTorch's time.
    solution = strsm(1.0, within.numpy().T, pull.numpy().T, side=1, lower=1, trans_a=1, diag=1)
    return torch.from_numpy(solution.T)
