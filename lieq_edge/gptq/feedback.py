"""Rounding with error feedback into ggml's own block formats.

The codes of a linear layer are chosen one column after the other, and the error of each column is made up for in
the columns that follow, so that the loss-weighted output error tr(E H E^T), E = W - Q, becomes small. This is GPTQ
(arXiv 2210.17323, Eqs 2-3 and Algorithm 1) in the equivalent form of LDLQ (QuIP, arXiv 2307.13304, section 3): with
H = R R^T, R upper triangular, and M = R with each column divided by its diagonal,

    tr(E H E^T) = sum_j R_jj^2 |t_j - q_j|^2,    t_j = w_j + sum_{i<j} (w_i - q_i) M_ij,

so column j is rounded to the grid value nearest to its target t_j. No inverse of H is formed.

The grid belongs to the block format. At the first column of each group of 256, scales and mins are chosen from the
current weights (``rounding.grid_search``; by ggml's own encoder for Q8_0 and IQ4_NL, and by ``q2_0`` for Q2_0): W plus
the change that would best undo the errors of all earlier columns if nothing were rounded from here on. Then each
sub-block tries the neighbours of its scale and min and keeps the one that rounds best *with* feedback. When all columns
are done, ``sweeps`` go over them again (``rounding.refine``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..gguf.blocks import Grid, Layout, layout_of, pack, unpack
from ..llama import encoders as ggml
from .q2_0 import search_grid

if TYPE_CHECKING:
    from torch import Tensor

    from .factor import BlockFactors, Factor
    from .scales import Fields

Floats = npt.NDArray[np.float32]

DAMPING = 1.0
"""Part of the diagonal of H that is added to it.

A choice among 0.5, 1 and 2, made for each matrix by its held-out error, gained nothing over this for three times the
work.
"""

SWEEPS = 1
"""How often rounded columns are gone over again. More follow H closer, and other texts less."""

# Columns whose scales are chosen together.
_GROUP = 256
# Sums over all earlier columns are as long as a multiple of this; later ones have no errors yet. For each other length
# oneDNN compiles code of its own, 0.6 MB a time.
_LENGTHS = 2048
# Rows that are rounded together: each step is a call, and all their numbers are in memory several times.
_ROWS = 1536


@dataclass(frozen=True)
class Rounding:
    """Rows rounded with error feedback.

    Attributes:
        packed: uint8 ``(rows, bytes of a row)``, ggml's blocks.
        values: float32 ``(rows, columns)``, what the blocks decode to, bit for bit.
        floor: that was used; larger than what was asked for when H was too badly conditioned.
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
        type_name: a type in ``codec.LAYOUTS``.
        damping: part of the diagonal of H that is added to it.
        floor: part of the mean of that diagonal that is added too. Raised as far as the factorisation needs.
        sweeps: how often the rounded columns are gone over again.
        search: try the neighbours of the scales that were chosen; False keeps these.
        threads: pieces of rows that are worked on at a time, None for one a core; the bytes do not depend on it.

    Raises:
        InputError: the type does not fit the rows or has no single codes, or H is not finite or not semi-definite.
    """
    from .factor import factorise

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
    """``round_with_feedback`` with a factor of H that is there already; ``keep_values`` False leaves them empty."""
    from ..blockwise.precision import fast_float32
    from .factor import factorise_blocks

    layout = layout_of(type_name)
    rows, columns = weights.shape
    if columns % layout.block:
        raise InputError(f"{type_name} stores blocks of {layout.block} weights and does not fit rows of {columns}.")
    blocks = factorise_blocks(factor.hessian, layout.sub) if sweeps else None
    pieces = [weights[start : start + _ROWS] for start in range(0, rows, _ROWS)]

    def one(piece: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
        with fast_float32():  # among workers or not, so that the bytes are the same
            grid = _round_rows(piece, factor, blocks, type_name, sweeps, search)
        return pack(grid), grid.values() if keep_values else np.empty((0, columns), np.float32)

    if threads == 1 or len(pieces) == 1:
        done = [one(piece) for piece in pieces]
    else:
        from ..blockwise.workers import Workers

        with Workers(threads) as workers:
            done = workers.map(one, pieces)
    packed, values = zip(*done, strict=True)
    return Rounding(np.concatenate(packed), np.concatenate(values), factor.floor)


def _round_rows(
    weights: Floats, factor: Factor, blocks: BlockFactors | None, type_name: str, sweeps: int, search: bool
) -> Grid:
    """Round some rows; see ``round_with_feedback``."""
    import torch

    from .refine import sweep
    from .scales import Scales
    from .subblock import Levels, round_sub_block

    layout = layout_of(type_name)
    rows, columns = weights.shape
    # Columns first: each step then works on neighbouring memory.
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
        scales.fill(_fields(layout, current, importance[first:last]), first)
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
    """X with M^T X = ``pull`` ``(columns, rows)``, for a square M of ``Factor.feedback``."""
    import torch
    from scipy.linalg.blas import strsm

    # BLAS reads columns first: to it both are turned, and X^T M = pull^T. It takes a third of PyTorch's time.
    found = strsm(1.0, within.numpy().T, pull.numpy().T, side=1, lower=1, trans_a=1, diag=1)
    return torch.from_numpy(found.T)


def _fields(layout: Layout, weights: Tensor, importance: Floats) -> Fields:
    """Scales and mins to begin with, of ``weights`` ``(columns, rows)``."""
    from .grid_search import search, searches
    from .scales import Fields

    if searches(layout):
        return search(layout, weights, importance)
    rows = weights.T.contiguous().numpy()
    if layout.type_name == "Q2_0":
        return Fields.of(search_grid(rows, importance))
    return Fields.of(unpack(ggml.encode(rows, layout.type_name, importance, 1), layout.type_name))
