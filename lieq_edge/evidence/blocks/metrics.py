"""Metrics: from measurements of the blocks to one score a block; a higher score asks for more bits (LieQ)."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...errors import InputError

if TYPE_CHECKING:
    from ...sources.base import Source
    from .records import Diagnostics

GEOMETRY, SALIENCY = "geometry", "saliency"
"""Measurements that the runtimes make: dr and dE of a probe text, and dPPL."""

EQUAL_WEIGHTS = (1 / 3, 1 / 3, 1 / 3)
"""Weights of the three parts of the composite score (v1 leaves them open)."""


@dataclass(frozen=True)
class ScoreOptions:
    """Options of scores.

    Attributes:
        seed: seed of the metric ``random``.
        weights: weights (a, b, c) of the metric ``composite``.
    """

    seed: int = 0
    weights: tuple[float, float, float] = EQUAL_WEIGHTS


class BlockMetric(ABC):
    """A score for every block.

    Attributes:
        name: value of ``--metric``.
        needs: measurements that a runtime has to make.
        measures_weights: True if the metric measures the weights of the blocks itself; see ``measure``.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    measures_weights: ClassVar[bool] = False

    def measure(self, source: Source) -> list[float]:
        """One number a block from the weights alone, which becomes ``BlockDiagnostics.measured[name]``."""
        raise NotImplementedError(f"the metric {self.name} measures nothing by itself")

    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]:
        """One score a block, in block order; by default the number from ``measure``.

        Raises:
            InputError: a measurement is missing or not finite.
        """
        return self._values(diagnostics, self.name)

    def _values(self, diagnostics: Diagnostics, field: str) -> list[float]:
        values = [block.value(field) for block in diagnostics.blocks]
        if any(value is None for value in values):
            raise InputError(
                f"These diagnostics lack {field}, which the metric {self.name!r} needs; "
                f"run `lieq-edge analyze` with --metric {self.name} first."
            )
        numbers = [value for value in values if value is not None]
        if not all(math.isfinite(value) for value in numbers):
            raise InputError(f"The measured {field} is not finite in some block; choose another metric.")
        return numbers


class GeometryMetric(BlockMetric):
    """``s_l = dr_l``, the mean over projections and heads (ACL version, Eq 8)."""

    name = "geometry"
    needs = frozenset({GEOMETRY})

    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]:
        return self._values(diagnostics, "compactness_gain")


class SaliencyMetric(BlockMetric):
    """``s_l = dPPL_l`` (Eqs 1-2), the measure that the geometry is a proxy of."""

    name = "saliency"
    needs = frozenset({SALIENCY})

    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]:
        return self._values(diagnostics, "delta_ppl")


class CompositeMetric(BlockMetric):
    """``s = a n(log1p|dPPL|) + b n(dr) + c n(dE)``, n the min-max scaling over the blocks (v1)."""

    name = "composite"
    needs = frozenset({GEOMETRY, SALIENCY})

    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]:
        parts = (
            _min_max([math.log1p(abs(drop)) for drop in self._values(diagnostics, "delta_ppl")]),
            _min_max(self._values(diagnostics, "compactness_gain")),
            _min_max(self._values(diagnostics, "energy_gain")),
        )
        return [sum(w * x for w, x in zip(options.weights, row, strict=True)) for row in zip(*parts, strict=True)]


class Control(BlockMetric):
    """A score that measures nothing, for honest comparison."""

    @abstractmethod
    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]: ...


class RandomControl(Control):
    """A seeded random number for each block."""

    name = "random"

    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]:
        generator = random.Random(options.seed)
        return [generator.random() for _ in diagnostics.blocks]


class FirstControl(Control):
    """The first blocks first."""

    name = "first"

    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]:
        count = len(diagnostics.blocks)
        return [float(count - index) for index in range(count)]


class LastControl(Control):
    """The last blocks first."""

    name = "last"

    def score(self, diagnostics: Diagnostics, options: ScoreOptions) -> list[float]:
        return [float(index + 1) for index in range(len(diagnostics.blocks))]


def _min_max(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if high == low:
        return [0.0] * len(values)
    return [(value - low) / (high - low) for value in values]
