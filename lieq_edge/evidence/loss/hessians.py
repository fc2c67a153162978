"""H of the linears of blocks, stored to round them for any budget.

H is made from the inputs of the original, so it does not depend on the types of other matrices. It is stored as
correlations of columns in float16, which are off by at most 0.0005, and its diagonal; rounding doubles the diagonal, so
the error is negligible. Every H takes this form, whether it was stored or has just been measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...blockwise.mixture import Routed
from ...errors import InputError
from ...gguf.names import InputGroup
from ...gptq.hessian import Hessian
from ...store import Entry, Run

Floats = npt.NDArray[np.float32]

# Rows of a strip, which starts at the diagonal of its first row: little more than half of H is stored.
_ROWS = 256


@dataclass(frozen=True)
class Correlations:
    """A symmetric H of ``n`` columns.

    Attributes:
        diagonal: float32 ``(n,)``.
        values: strips of H_ij over the root of H_ii H_jj, float16, flattened.
    """

    diagonal: Floats
    values: npt.NDArray[np.float16]

    @classmethod
    def of(cls, matrix: Floats) -> Correlations:
        """Correlations of H, float32 ``(n, n)``, positive semi-definite."""
        diagonal = matrix.diagonal().copy()
        scales = np.sqrt(np.where(diagonal > 0, diagonal, np.inf)).astype(np.float32)
        strips = []
        for rows in _strips(len(matrix)):
            strip = matrix[rows, rows.start :] / scales[rows, None]
            strip /= scales[rows.start :]
            strips.append(strip.astype(np.float16).reshape(-1))
        return cls(diagonal, np.concatenate(strips))

    def matrix(self) -> Floats:
        """H, float32 ``(n, n)``."""
        n = len(self.diagonal)
        matrix = np.empty((n, n), np.float32)
        scales = np.sqrt(self.diagonal)
        start = 0
        for rows in _strips(n):
            strip = matrix[rows, rows.start :]
            values = self.values[start : start + strip.size].reshape(strip.shape)
            np.multiply(values, scales[rows, None], out=strip)
            strip *= scales[rows.start :]
            start += strip.size
        np.fill_diagonal(matrix, self.diagonal)
        return Hessian(matrix).whole().learned


def _strips(n: int) -> Iterator[slice]:
    for start in range(0, n, _ROWS):
        yield slice(start, min(start + _ROWS, n))


class BlockHessians:
    """H of every block, stored in a run that lasts, or spilled if the cache has no room."""

    def __init__(self, run: Run, blocks: int) -> None:
        """Open the Hessians in a run.

        Args:
            run: run that stores or spills them.
            blocks: number of blocks of the model.
        """
        self._run = run
        self._blocks = range(blocks)
        self._put: set[int] = set()

    def put(self, block: int, moments: Mapping[InputGroup, Correlations], routed: Routed | None = None) -> None:
        """Keep those of a block, by the linears that read the input.

        Of experts the tokens that enter them are stored: they give every expert's H, and there are too many of these.

        Raises:
            InputError: there is not enough space for all blocks.
            OSError: they cannot be written.
        """
        arrays: dict[str, npt.NDArray] = {}
        for number, one in enumerate(moments.values()):
            arrays |= {f"diagonal {number}": one.diagonal, f"values {number}": one.values}
        if routed is not None:
            arrays |= {f"routed {name}": array for name, array in routed.arrays().items()}
        if not self._put:
            left = sum(not self.has(other) for other in self._blocks)
            self._run.reserve(left * sum(array.nbytes for array in arrays.values()))
        self._run.spill(_name(block), arrays, [list(names) for names in moments])
        self._put.add(block)

    def has(self, block: int) -> bool:
        """True if the Hessians of a block are there, whole or damaged."""
        return block in self._put or self._run.has(_name(block))

    def complete(self) -> bool:
        """True if the Hessians of all blocks were stored by this process, or are there and whole."""
        return all(block in self._put or self._run.fetch(_name(block)) is not None for block in self._blocks)

    def get(self, block: int) -> dict[InputGroup, Correlations]:
        """The Hessians of a block, by input group.

        Raises:
            InputError: they are gone or damaged.
        """
        entry = self._fetch(block)
        return {
            tuple(names): Correlations(entry.arrays[f"diagonal {number}"], entry.arrays[f"values {number}"])
            for number, names in enumerate(entry.record)
        }

    def routed(self, block: int) -> Routed | None:
        """Tokens that enter the experts of a block; None for a dense block.

        Raises:
            InputError: they are gone.
        """
        parts = {tuple(name.split(" ", 1)): array for name, array in self._fetch(block).arrays.items()}
        arrays = {name: array for (kind, name), array in parts.items() if kind == "routed"}
        return Routed.of_arrays(arrays) if arrays else None

    def _fetch(self, block: int) -> Entry:
        found = self._run.fetch(_name(block))
        if found is None:
            raise InputError(f"The measurements of block {block} are gone or damaged; run the command again.")
        return found


def _name(block: int) -> str:
    return f"block.{block}"
