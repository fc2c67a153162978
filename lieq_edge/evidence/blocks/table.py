"""The metrics that score blocks, by name. A new one is a file beside this one and a line in the table."""

from __future__ import annotations

from ...errors import InputError
from .metrics import (
    BlockMetric,
    CompositeMetric,
    FirstControl,
    GeometryMetric,
    LastControl,
    RandomControl,
    SaliencyMetric,
    ScoreOptions,
)
from .records import Diagnostics

_METRICS: tuple[type[BlockMetric], ...] = (
    GeometryMetric,
    CompositeMetric,
    SaliencyMetric,
    RandomControl,
    FirstControl,
    LastControl,
)

METRICS: dict[str, BlockMetric] = {kind.name: kind() for kind in _METRICS}
"""Every metric that scores blocks; the last three are controls."""


def score_blocks(diagnostics: Diagnostics, metric: str, options: ScoreOptions | None = None) -> list[float]:
    """Score every block by the metric of that name.

    Raises:
        InputError: the metric is unknown, or its measurements are missing.
    """
    if metric not in METRICS:
        raise InputError(f"The metric {metric!r} is unknown; choose one of {', '.join(METRICS)}.")
    return METRICS[metric].score(diagnostics, options or ScoreOptions())
