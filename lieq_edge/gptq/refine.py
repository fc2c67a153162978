"""Refine rounded rows; no step raises tr(E H E^T) of any row.

Rounding with feedback fixes the first columns before it knows the errors of the last. Here each sub-block is rounded
again, scale included, with all other columns fixed (block coordinate descent), and scale and min of each block move to
the H-weighted least-squares fit of its codes.
"""

from __future__ import annotations

import torch

from .factor import BlockFactors
from .scales import Scales
from .subblock import Levels, round_sub_block


def sweep(
    weights: torch.Tensor,
    hessian: torch.Tensor,
    blocks: BlockFactors,
    scales: Scales,
    levels: torch.Tensor,
    errors: torch.Tensor,
    group: int,
) -> None:
    """Refine all blocks once: first d and m of a block, then its sub-blocks.

    ``scales``, ``levels`` and ``errors`` are updated in place.

    Args:
        weights: ``(columns, rows)``.
        hessian: damped H, ``(columns, columns)``.
        blocks: factors of the diagonal blocks of ``hessian``.
        scales: scale fields of the rows.
        levels: chosen levels, ``(columns, rows)``.
        errors: weights minus chosen values, like ``levels``.
        group: number of columns whose gradient is computed by one product and then kept up to date.
    """
    to_levels = Levels(scales.layout)
    block = scales.layout.block
    columns = len(weights)
    for first in range(0, columns, group):
        last = min(first + group, columns)
        square = hessian[first:last, first:last]
        gradient = hessian[first:last] @ errors
        for start in range(first, last, block):
            part = slice(start, start + block)
            here = slice(start - first, start - first + block)
            errors[part] += _refit(start // block, here, square, scales, levels[part], gradient)
            _descend(part, first, weights, square, blocks, scales, levels, errors, gradient, to_levels)


def _descend(
    columns: slice,
    first: int,
    weights: torch.Tensor,
    square: torch.Tensor,
    blocks: BlockFactors,
    scales: Scales,
    levels: torch.Tensor,
    errors: torch.Tensor,
    gradient: torch.Tensor,
    to_levels: Levels,
) -> None:
    """Round the sub-blocks of ``columns`` again; ``square`` and ``gradient`` are those of the group from ``first``.

    With the other columns fixed, the errors e of sub-block s cost e^T H_ss e + 2 e^T b, which is least at
    e = -H_ss^-1 b. So its targets are the weights plus H_ss^-1 b, and rounding with feedback by the factor of H_ss
    searches for codes near them. A row keeps its codes unless the new ones cost less.
    """
    sub = scales.layout.sub
    for start in range(columns.start, columns.stop, sub):
        part, here, index = slice(start, start + sub), slice(start - first, start - first + sub), start // sub
        current, slope = errors[part], gradient[here]
        # Distance of the current errors from the optimum, and its cost.
        excess = blocks.inverse[index] @ slope
        present = (excess * slope).sum(0)
        targets = weights[part] - current + excess
        candidates = scales.candidates(index, search=True, near=True)
        choice = round_sub_block(
            targets, targets, blocks.feedback[index], blocks.variances[index], candidates, to_levels
        )
        better = choice.cost < present
        change = torch.where(better, excess.neg_().add_(choice.errors), torch.zeros(()))
        scales.take(index, candidates, choice.pick, better)
        levels[part] = torch.where(better, choice.levels, levels[part])
        errors[part] += change
        gradient.addmm_(square[:, here], change)


def _refit(
    block: int, here: slice, square: torch.Tensor, scales: Scales, levels: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """Move d (and m) of a block to the least-squares fit of its codes, in rows where fp16 rounding leaves a gain.

    With fixed codes, an error changes by -delta_d * c + delta_m * u, where c and u are the factors of d and m. The
    2 x 2 normal equations are solved for each row.

    Args:
        block: index of the block.
        here: its columns in their group.
        square: H of the group.
        scales: scale fields of all blocks; updated in place.
        levels: levels of its columns, ``(columns, rows)``.
        gradient: gradient of the group, ``(group, rows)``; updated in place.

    Returns:
        Changes of the errors, ``(columns, rows)``.
    """
    layout = scales.layout
    per_block = layout.block // layout.sub
    subs = slice(block * per_block, (block + 1) * per_block)
    toward, slope = square[:, here], gradient[here]
    by_d = -levels
    if scales.scale_codes is not None:
        by_d.view(per_block, layout.sub, -1).mul_(scales.scale_codes[subs, None])
    curved_d = toward @ by_d
    dd, d_slope = (by_d * curved_d[here]).sum(0), (by_d * slope).sum(0)
    d, zero = scales.d[block], torch.zeros(())
    if scales.m is None:
        step = _to_half(d, torch.where(dd > 0, -d_slope / dd, zero))
        step = torch.where(step * (dd * step + 2 * d_slope) < 0, step, zero)
        d += step
        gradient.addcmul_(curved_d, step)
        return by_d.mul_(step)

    # u is the same in all columns of a sub-block, so sums over these are enough.
    def summed(x: torch.Tensor) -> torch.Tensor:
        return x.view(per_block, layout.sub, -1).sum(1)

    if scales.min_codes is not None:
        by_m = scales.min_codes[subs]
    else:
        by_m = torch.full((per_block, levels.shape[1]), float(layout.min_sign))
    curved_m = toward.view(len(toward), per_block, layout.sub).sum(2) @ by_m
    dm, mm, m_slope = ((by_m * summed(x)).sum(0) for x in (curved_d[here], curved_m[here], slope))
    determinant = dd * mm - dm * dm
    solvable = determinant > 1e-5 * dd * mm
    m = scales.m[block]
    d_step = _to_half(d, torch.where(solvable, (dm * m_slope - mm * d_slope) / determinant, zero))
    m_step = _to_half(m, torch.where(solvable, (dm * d_slope - dd * m_slope) / determinant, zero))
    gain = d_step * (dd * d_step + 2 * d_slope) + m_step * (mm * m_step + 2 * m_slope) + 2 * dm * d_step * m_step
    d_step, m_step = torch.where(gain < 0, d_step, zero), torch.where(gain < 0, m_step, zero)
    d += d_step
    m += m_step
    gradient.addcmul_(curved_d, d_step).addcmul_(curved_m, m_step)
    change = by_d.mul_(d_step)
    change.view(per_block, layout.sub, -1).add_((by_m * m_step)[:, None])
    return change


def _to_half(present: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The step to the nearest fp16 number; 0 where that is not finite."""
    reached = (present + step).half().float()
    return torch.where(torch.isfinite(reached), reached - present, torch.zeros(()))
