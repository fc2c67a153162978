"""H of the linears of a block, collected while batches of sequences pass through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..gguf.names import InputGroup
from .hessian import KEPT, CrossMoment, Hessian, squared_norms, tokens_of


@dataclass(frozen=True)
class Received:
    """Inputs of the linears of an input group for some sequences.

    Attributes:
        x: inputs ``(b, T, columns)``.
        weights: w_t ``(b, T)``.
        wanted: wanted outputs ``(b, T, rows)``, or None if no C is collected.
    """

    x: Tensor
    weights: Tensor
    wanted: Tensor | None = None


class Collecting:
    """H, and C where outputs are wanted, of each input group of a block."""

    def __init__(self, held_out: frozenset[int], *, divided: bool = True, kept: float = KEPT) -> None:
        """Start without tokens.

        Args:
            held_out: indices of the held-out sequences.
            divided: False if nothing will be judged: held-out sequences then enter H too.
            kept: share of the tokens that is kept.
        """
        self._held_out = held_out
        self._divided = divided
        self._kept = kept
        self._hessians: dict[InputGroup, Hessian] = {}
        self._crosses: dict[InputGroup, CrossMoment] = {}

    def add(self, batch: slice, received: Mapping[InputGroup, Received]) -> None:
        """Add the sequences ``batch``."""
        # By input, because some input groups receive the same tensor.
        norms: dict[Tensor, npt.NDArray[np.float64]] = {}
        for names, inputs in received.items():
            columns = inputs.x.shape[-1]
            if names not in self._hessians:
                self._hessians[names] = Hessian.zeros(columns, divided=self._divided)
            if inputs.wanted is not None and names not in self._crosses:
                self._crosses[names] = CrossMoment.zeros(inputs.wanted.shape[-1], columns)
            if inputs.x not in norms:
                norms[inputs.x] = squared_norms(inputs.x)
            for tokens in tokens_of(batch, norms[inputs.x], inputs.weights, self._held_out, self._kept):
                x = tokens.of(inputs.x)
                self._hessians[names].add(x, tokens.weights, held_out=tokens.held_out)
                if inputs.wanted is not None:
                    wanted = tokens.of(inputs.wanted)
                    self._crosses[names].add(x, wanted, tokens.weights, held_out=tokens.held_out)

    def done(self) -> tuple[dict[InputGroup, Hessian], dict[InputGroup, CrossMoment]]:
        """Hand over every H, made symmetric, and every C, after the last batch; this object is empty afterwards."""
        hessians, crosses = self._hessians, self._crosses
        self._hessians, self._crosses = {}, {}
        return {names: hessian.whole() for names, hessian in hessians.items()}, crosses
