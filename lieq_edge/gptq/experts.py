"""H of experts: each from the tokens that visit it, shrunk towards that of its siblings where these are few."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..blockwise.layers import gated
from ..blockwise.mixture import Routed
from .hessian import Hessian

Floats = npt.NDArray[np.float32]

SHRINKAGE = 1.0
"""Visits for each column at which the H of what enters an expert counts as much as that of all experts.

What is inside an expert is in channels of its own, about which its siblings say nothing (docs/method.md).
"""


@dataclass(frozen=True)
class Visits:
    """What an expert receives.

    Attributes:
        x: inputs ``(visits, columns)``.
        weights: w_t of each visit, ``(visits,)``.
        held_out: visits of held-out sequences, bool ``(visits,)``.
        shrinkage: see ``shrink``.
    """

    x: Tensor
    weights: Tensor
    held_out: Tensor
    shrinkage: float = 0.0

    def hessian(self, *, divided: bool) -> Hessian:
        """H, symmetric; where it is not ``divided`` held-out visits enter it too."""
        found = Hessian.zeros(self.x.shape[1], divided=divided)
        for judged in (False, True):
            chosen = self.held_out == judged
            if chosen.any():
                found.add(self.x[chosen], self.weights[chosen], held_out=judged)
        return found.whole()

    def count(self, *, divided: bool) -> int:
        """Number of visits that enter H."""
        return int((~self.held_out).sum()) if divided else len(self.held_out)


def shrink(hessian: Hessian, count: int, pooled: Floats, shrinkage: float) -> None:
    """Mix an expert's H, in place, with that of its siblings scaled to the same trace.

    The expert's own part is n / (n + k), with n its visits and k = ``shrinkage`` times its columns. One without visits
    takes its siblings' H.

    Args:
        hessian: H of the expert.
        count: visits n that entered it.
        pooled: H of all experts.
        shrinkage: k for each column.
    """
    own = hessian.learned
    trace, total = float(own.trace(dtype=np.float64)), float(pooled.trace(dtype=np.float64))
    if total <= 0:
        return
    if trace <= 0:
        own[:] = pooled
        return
    part = count / (count + shrinkage * len(own))
    own *= part
    own += np.float32((1 - part) * trace / total) * pooled


class ExpertInputs:
    """What all experts of a block receive, and their H, one expert at a time."""

    def __init__(
        self,
        routed: Routed,
        weights: tuple[Tensor, Tensor],
        held_out: frozenset[int],
        *,
        divided: bool = True,
        shrinkage: float = SHRINKAGE,
    ) -> None:
        """Wrap the tokens that enter the experts.

        Args:
            routed: the tokens of all sequences.
            weights: v_t ``(n, T)`` of the projections that read the token, and of the one behind them.
            held_out: indices of the held-out sequences.
            divided: False if nothing will be judged: held-out visits then enter H.
            shrinkage: that of what enters the experts.
        """
        n, length = weights[0].shape
        self._routed = routed
        self._weights = [values.flatten() for values in weights]
        is_held_out = torch.zeros(n, length, dtype=torch.bool)
        is_held_out[sorted(held_out)] = True
        self._held_out = is_held_out.flatten()
        self._divided = divided
        self._shrinkage = shrinkage

    def entering(self, expert: int) -> Visits:
        """Inputs of an expert's gate and up-projection."""
        token, squares = self._routed.visits(expert)
        weights = squares * self._weights[0][token]
        return Visits(self._routed.x[token], weights, self._held_out[token], self._shrinkage)

    def inside(self, expert: int, gate: Floats, up: Floats) -> Visits:
        """Inputs of an expert's down-projection, with its ``gate`` and ``up`` ``(rows, columns)``."""
        token, squares = self._routed.visits(expert)
        x = gated(self._routed.x[token], torch.from_numpy(gate), torch.from_numpy(up))
        return Visits(x, squares * self._weights[1][token], self._held_out[token])

    def pool_entering(self) -> Floats:
        """H of what enters all experts."""
        weights = self._routed.weights.square().sum(-1) * self._weights[0]
        return Visits(self._routed.x, weights, self._held_out).hessian(divided=self._divided).learned

    def pool_inside(self, gate: Floats, up: Floats, experts: Iterable[int]) -> Floats:
        """H of what is inside some of the experts, with ``gate`` and ``up`` ``(experts, rows, columns)``.

        Zeros if every expert has visits and so an H of its own.
        """
        total = np.zeros((gate.shape[1], gate.shape[1]), np.float32)
        if all(self.entering(expert).count(divided=self._divided) for expert in range(len(gate))):
            return total
        for expert in experts:
            total += self.inside(expert, gate[expert], up[expert]).hessian(divided=self._divided).learned
        return total

    def shrunk(self, visits: Visits, pooled: Floats) -> Hessian:
        """H of an expert, shrunk towards ``pooled``."""
        found = visits.hessian(divided=self._divided)
        shrink(found, visits.count(divided=self._divided), pooled, visits.shrinkage)
        return found
