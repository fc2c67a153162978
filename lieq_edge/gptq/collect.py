"""H of the linears of a block, collected while batches of sequences pass through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .hessian import KEPT, CrossMoment, Hessian, squared_norms, tokens_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..gguf.names import InputGroup


@dataclass(frozen=True)
class Received:
    """What linears receive of some sequences.

    Attributes:
        x: inputs ``(b, T, columns)``.
        weights: w_t ``(b, T)``.
        wanted: what the output should be, ``(b, T, rows)``, of those that have cross moments.
    """

    x: Tensor
    weights: Tensor
    wanted: Tensor | None = None


class Collecting:
    """Adds what linears receive to their moments."""

    def __init__(self, held_out: frozenset[int], *, divided: bool = True, kept: float = KEPT) -> None:
        """Add a share ``kept`` of the tokens; the sequences ``held_out`` judge, unless nothing is ``divided``."""
        self._held_out = held_out
        self._divided = divided
        self._kept = kept
        self._moments: dict[InputGroup, Hessian] = {}
        self._crosses: dict[InputGroup, CrossMoment] = {}

    def add(self, batch: slice, received: Mapping[InputGroup, Received]) -> None:
        """Add the sequences ``batch``."""
        # By input: some groups of linears receive the same.
        norms: dict[Tensor, npt.NDArray[np.float64]] = {}
        for names, some in received.items():
            columns = some.x.shape[-1]
            if names not in self._moments:
                self._moments[names] = Hessian.zeros(columns, divided=self._divided)
            if some.wanted is not None and names not in self._crosses:
                self._crosses[names] = CrossMoment.zeros(some.wanted.shape[-1], columns)
            if some.x not in norms:
                norms[some.x] = squared_norms(some.x)
            for tokens in tokens_of(batch, norms[some.x], some.weights, self._held_out, self._kept):
                x = tokens.of(some.x)
                self._moments[names].add(x, tokens.weights, held_out=tokens.held_out)
                if some.wanted is not None:
                    wanted = tokens.of(some.wanted)
                    self._crosses[names].add(x, wanted, tokens.weights, held_out=tokens.held_out)

    def done(self) -> tuple[dict[InputGroup, Hessian], dict[InputGroup, CrossMoment]]:
        """The moments, symmetric, when all batches are through, and C of those whose outputs were wanted.

        They are the caller's then, and this has none any more.
        """
        moments, crosses = self._moments, self._crosses
        self._moments, self._crosses = {}, {}
        return {names: own.whole() for names, own in moments.items()}, crosses
