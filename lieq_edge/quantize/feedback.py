"""Rounding with error feedback into ggml's own block formats.

The codes of a linear layer are chosen one column after the other, and the error of each column is made up for in
the columns that follow, so that the loss-weighted output error tr(E H E^T), E = W - Q, becomes small. This is GPTQ
(arXiv 2210.17323, Eqs 2-3 and Algorithm 1) in the equivalent form of LDLQ (QuIP, arXiv 2307.13304, section 3): with
H = R R^T, R upper triangular, and M = R / diag(R) column by column,

    tr(E H E^T) = sum_j R_jj^2 |t_j - q_j|^2,    t_j = w_j + sum_{i<j} (w_i - q_i) M_ij,

so column j is rounded to the grid value nearest to its target t_j. No inverse of H is formed.

Scales and mins belong to the block format: at the first column of each group of 256 ggml's own encoder, or the search
of ``q2_0``, chooses them from the current weights, that is from W plus the change that would undo the error of all
earlier columns best if nothing were rounded from here on. Only then are the codes of the group chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from . import ggml
from .codec import Grid, Layout, layout_of, pack, unpack
from .q2_0 import search_grid

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float32]

# Columns whose scales are chosen together, and columns between two updates of the rest of their group.
_GROUP = 256
_PANEL = 32
# Where raising the damping starts when H is singular, and where it is given up.
_SMALLEST_DAMPING = 1e-4
_LARGEST_DAMPING = 1e4


@dataclass(frozen=True)
class Rounding:
    """Rows rounded with error feedback.

    Attributes:
        packed: uint8 ``(rows, bytes of a row)``, ggml's blocks.
        values: float32 ``(rows, columns)``, what the blocks decode to, bit for bit.
        damping: the damping that was used; larger than what was asked for when H was too badly conditioned.
    """

    packed: npt.NDArray[np.uint8]
    values: Floats
    damping: float


def round_with_feedback(
    weights: Floats,
    hessian: npt.NDArray[np.floating],
    type_name: str,
    *,
    damping: float = 0.3,
    threads: int | None = None,
) -> Rounding:
    """Round a linear layer's weights so that tr(E H E^T) is small.

    Args:
        weights: float32 ``(rows, columns)``; columns a multiple of the type's block.
        hessian: H = sum_t w_t x_t x_t^T, ``(columns, columns)``, symmetric, positive semi-definite.
        type_name: a type in ``codec.LAYOUTS``.
        damping: added to the diagonal of H as a part of its mean. Raised as far as the factorisation needs.
        threads: for ggml's encoder.

    Raises:
        InputError: the type does not fit the rows or has no single codes, or H is not finite or not semi-definite.
    """
    import torch

    layout = layout_of(type_name)
    columns = weights.shape[1]
    if columns % layout.block:
        raise InputError(f"{type_name} stores blocks of {layout.block} weights and does not fit rows of {columns}.")
    if hessian.shape != (columns, columns):
        raise ValueError(f"H has shape {hessian.shape}, the rows have {columns} columns")
    factor = _factorise(torch.from_numpy(np.ascontiguousarray(hessian, np.float32)), damping)
    # Columns first: each step of the inner loop then works on neighbouring memory.
    original = torch.from_numpy(np.ascontiguousarray(weights.T, np.float32))
    errors = torch.zeros_like(original)
    grids = []
    for start in range(0, columns, _GROUP):
        stop = min(start + _GROUP, columns)
        group = original[start:stop]
        within = factor.feedback[start:stop, start:stop]
        pull = factor.feedback[:start, start:stop].T @ errors[:start]
        current = group + torch.linalg.solve_triangular(within.T, pull, upper=False, unitriangular=True)
        grid = _choose_grid(current.T.contiguous().numpy(), factor.importance[start:stop], type_name, threads)
        codes = _choose_codes(group, pull.add_(group), within, grid, errors[start:stop])
        grids.append(grid.with_codes(codes.T.contiguous().numpy()))
    grid = Grid.join(grids)
    return Rounding(pack(grid), grid.values(), factor.damping)


@dataclass(frozen=True)
class _Factor:
    """H = R R^T: ``feedback`` is M, R with each column divided by its diagonal; ``importance`` is diag H (damped)."""

    feedback: torch.Tensor
    importance: Floats
    damping: float


def _factorise(hessian: torch.Tensor, damping: float) -> _Factor:
    """Damp H until it has a Cholesky factor, and factorise it from its last column to its first."""
    import torch

    mean = float(hessian.diagonal().mean())
    if not np.isfinite(mean) or not bool(torch.isfinite(hessian).all()):
        raise InputError("The calibration statistics hold NaN or Inf; use another calibration text.")
    if mean <= 0:
        raise InputError("The calibration statistics are all zero; use a longer calibration text.")
    used = damping
    while used <= _LARGEST_DAMPING:
        damped = hessian.clone()
        damped.diagonal().add_(used * mean)
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if int(failed) == 0 and bool(torch.isfinite(lower).all()):
            upper = lower.flip(0, 1)
            return _Factor(upper / upper.diagonal(), damped.diagonal().numpy().copy(), used)
        used = max(2 * used, _SMALLEST_DAMPING)
    raise InputError("The calibration statistics are not positive semi-definite; measure them again.")


def _choose_grid(weights: Floats, importance: Floats, type_name: str, threads: int | None) -> Grid:
    if type_name == "Q2_0":
        return search_grid(weights, importance)
    return unpack(ggml.encode(weights, type_name, importance, threads), type_name)


def _choose_codes(
    original: torch.Tensor, targets: torch.Tensor, feedback: torch.Tensor, grid: Grid, errors: torch.Tensor
) -> torch.Tensor:
    """Codes of a group of columns, one after the other.

    Args:
        original: the weights, ``(columns of the group, rows)``.
        targets: the same plus the feedback of earlier groups; used up.
        feedback: the group's square of M.
        grid: scales and mins of the group.
        errors: where ``original`` minus the chosen values is written.

    Returns:
        uint8 like ``original``.
    """
    import torch

    layout = grid.layout
    scales, mins, inverses = _scales_of(grid)
    to_levels = _Levels(layout)
    columns = len(original)
    codes = torch.empty(original.shape, dtype=torch.uint8)
    for start in range(0, columns, _PANEL):
        stop = min(start + _PANEL, columns)
        for j in range(start, stop):
            sub = j // layout.sub
            scaled = targets[j] + mins[sub] if mins is not None else targets[j].clone()
            codes[j], values = to_levels.nearest(scaled.mul_(inverses[sub]))
            values.mul_(scales[sub])
            if mins is not None:
                values.sub_(mins[sub])
            torch.sub(original[j], values, out=errors[j])
            if j + 1 < stop:
                targets[j + 1 : stop].addr_(feedback[j, j + 1 : stop], errors[j])
        if stop < columns:
            targets[stop:].addmm_(feedback[start:stop, stop:].T, errors[start:stop])
    return codes


def _scales_of(grid: Grid) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Scales, mins and 1 / scales (0 for a scale of 0), each ``(sub-blocks, rows)``."""
    import torch

    scales = torch.from_numpy(grid.scales()).T.contiguous()
    mins = grid.mins()
    inverses = torch.where(scales == 0, torch.zeros_like(scales), scales.reciprocal())
    return scales, torch.from_numpy(mins).T.contiguous() if mins is not None else None, inverses


class _Levels:
    """Rounds to a type's levels."""

    def __init__(self, layout: Layout) -> None:
        import torch

        self.lowest = float(layout.levels[layout.lowest_code])
        self.highest = float(layout.levels[-1])
        self.offset = float(layout.levels[0])
        self.table = None
        if not layout.is_linear:
            self.table = torch.tensor(layout.levels, dtype=torch.float32)
            self.middles = (self.table[1:] + self.table[:-1]) / 2

    def nearest(self, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and levels nearest to ``scaled``, which is overwritten."""
        import torch

        if self.table is not None:
            codes = torch.bucketize(scaled, self.middles)
            return codes, self.table[codes]
        levels = scaled.round_().clamp_(self.lowest, self.highest)
        return levels - self.offset, levels
