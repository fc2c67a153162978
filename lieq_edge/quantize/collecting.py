"""H of the linears of a block, collected while batches of sequences pass through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .statistics import KEPT, CrossMoments, Moments, tokens_of

if TYPE_CHECKING:
    from torch import Tensor

    from .workers import Workers

# Wider matrices are added to by all threads of BLAS at once.
_WIDE = 4096


class Collecting:
    """Adds what linears receive to their moments, several linears side by side.

    BLAS and PyTorch have threads of their own, which wait for work by spinning. When both take turns with small
    products they take the cores from each other, and either is several times slower; so each product gets one thread.
    """

    def __init__(
        self,
        moments: dict[str, Moments],
        held_out: frozenset[int],
        workers: Workers,
        crosses: dict[str, CrossMoments] | None = None,
        kept: float = KEPT,
    ) -> None:
        """Add a share ``kept`` of the tokens to ``moments`` and ``crosses``, by name; ``held_out`` sequences judge."""
        self._moments = moments
        self._held_out = held_out
        self._workers = workers
        self._crosses = crosses or {}
        self._kept = kept
        self._waiting: dict[str, tuple[slice, Tensor, Tensor, Tensor | None]] = {}

    def add(self, name: str, batch: slice, x: Tensor, weights: Tensor, wanted: Tensor | None = None) -> None:
        """Add inputs of a linear for some sequences.

        Args:
            name: of the linear.
            batch: the sequences.
            x: inputs ``(b, T, columns)``.
            weights: w_t ``(b, T)``.
            wanted: what the output should change by, ``(b, T, rows)``, of the linears that have cross moments.
        """
        if name in self._waiting:
            self._flush()
        self._waiting[name] = (batch, x, weights, wanted)
        if len(self._waiting) == len(self._moments):
            self._flush()

    def done(self) -> dict[str, Moments]:
        """The moments by name, symmetric, when all batches are through."""
        self._flush()
        return {name: moments.whole() for name, moments in self._moments.items()}

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, {}

        # H and C of a linear side by side, for it may be the only one.
        def add(task: tuple[str, bool]) -> None:
            name, is_cross = task
            batch, x, weights, wanted = waiting[name]
            for some in tokens_of(batch, weights, self._held_out, self._kept):
                if not is_cross:
                    self._moments[name].add(some.of(x), some.weights, held_out=some.held_out)
                elif wanted is not None:
                    self._crosses[name].add(some.of(x), some.of(wanted), some.weights, held_out=some.held_out)

        columns = {name: len(self._moments[name].learned) for name in waiting}
        widest_first = sorted(waiting, key=lambda name: -columns[name])
        tasks = [
            (name, is_cross)
            for name in widest_first
            for is_cross in (False, True)
            if not is_cross or name in self._crosses
        ]
        self._workers.map(add, [task for task in tasks if columns[task[0]] <= _WIDE])
        for task in tasks:
            if columns[task[0]] > _WIDE:
                add(task)
