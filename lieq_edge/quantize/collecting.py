"""H of the linears of a block, collected while batches of sequences pass through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..resources import WIDE
from .statistics import KEPT, CrossMoments, Moments, Tokens, tokens_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..measure.loss_weights import Readers
    from .workers import Workers


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
    """Adds what linears receive to their moments, several of them side by side, with one thread for each product."""

    def __init__(self, held_out: frozenset[int], workers: Workers, *, divided: bool = True, kept: float = KEPT) -> None:
        """Add a share ``kept`` of the tokens; the sequences ``held_out`` judge, unless nothing is ``divided``."""
        self._held_out = held_out
        self._workers = workers
        self._divided = divided
        self._kept = kept
        self._moments: dict[Readers, Moments] = {}
        self._crosses: dict[Readers, CrossMoments] = {}

    def add(self, batch: slice, received: Mapping[Readers, Received]) -> None:
        """Add the sequences ``batch``."""
        for names, some in received.items():
            if names not in self._moments:
                self._moments[names] = Moments.zeros(some.x.shape[-1], divided=self._divided)
            if some.wanted is not None and names not in self._crosses:
                self._crosses[names] = CrossMoments.zeros(some.wanted.shape[-1], some.x.shape[-1])

        def choose(names: Readers) -> list[Tokens]:
            return tokens_of(batch, received[names].weights, self._held_out, self._kept)

        # H and C side by side, for the linear may be the only one.
        def add(task: tuple[Readers, bool]) -> None:
            names, is_cross = task
            x, wanted = received[names].x, received[names].wanted
            for some in tokens[names]:
                if not is_cross:
                    self._moments[names].add(some.of(x), some.weights, held_out=some.held_out)
                elif wanted is not None:
                    self._crosses[names].add(some.of(x), some.of(wanted), some.weights, held_out=some.held_out)

        widest_first = sorted(received, key=lambda names: -received[names].x.shape[-1])
        tokens = dict(zip(widest_first, self._workers.map(choose, widest_first), strict=True))
        tasks = [(names, is_cross) for names in widest_first for is_cross in (False, True)]
        tasks = [task for task in tasks if not task[1] or task[0] in self._crosses]
        narrow = [task for task in tasks if received[task[0]].x.shape[-1] < WIDE]
        self._workers.map(add, narrow)
        for task in tasks:
            if task not in narrow:
                with self._workers.for_columns(received[task[0]].x.shape[-1]):
                    add(task)

    def done(self) -> tuple[dict[Readers, Moments], dict[Readers, CrossMoments]]:
        """The moments, symmetric, when all batches are through, and C of those whose outputs were wanted."""
        return {names: moments.whole() for names, moments in self._moments.items()}, self._crosses
