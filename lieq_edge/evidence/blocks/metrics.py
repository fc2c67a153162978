"""Turn measurements of the blocks into one score a block: a higher score asks for more bits (method: LieQ)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from ...errors import InputError
from .records import Diagnostics

METRICS = ("geometry", "composite", "saliency", "random", "first", "last")
"""The metrics by name; the last three are controls for honest comparison."""

NEEDS = {
    "geometry": frozenset({"geometry"}),
    "composite": frozenset({"geometry", "saliency"}),
    "saliency": frozenset({"saliency"}),
    "random": frozenset[str](),
    "first": frozenset[str](),
    "last": frozenset[str](),
    "loss": frozenset[str](),
}
"""What has to be measured before a metric can be computed."""


def score_blocks(
    diagnostics: Diagnostics,
    metric: str,
    *,
    seed: int = 0,
    weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3),
) -> list[float]:
    """Score every block.

    Args:
        diagnostics: of the model.
        metric: ``geometry`` = dr_l (ACL version, Eq 8); ``composite`` = a n(log1p|dPPL|) + b n(dr) + c n(dE) with n the
            min-max scaling over blocks (v1); ``saliency`` = dPPL_l; ``random``, ``first``, ``last``.
        seed: of ``random``.
        weights: (a, b, c) of ``composite``.

    Returns:
        One score a block, in block order.

    Raises:
        InputError: the metric is unknown or its measurements are missing.
    """
    count = len(diagnostics.blocks)
    if metric == "geometry":
        return _measured(diagnostics, "compactness_gain", metric)
    if metric == "saliency":
        return _measured(diagnostics, "delta_ppl", metric)
    if metric == "composite":
        saliency = [math.log1p(abs(x)) for x in _measured(diagnostics, "delta_ppl", metric)]
        parts = (
            _min_max(saliency),
            _min_max(_measured(diagnostics, "compactness_gain", metric)),
            _min_max(_measured(diagnostics, "energy_gain", metric)),
        )
        return [sum(w * part[i] for w, part in zip(weights, parts, strict=True)) for i in range(count)]
    if metric == "random":
        order = random.Random(seed)
        return [order.random() for _ in range(count)]
    if metric == "first":
        return [float(count - i) for i in range(count)]
    if metric == "last":
        return [float(i + 1) for i in range(count)]
    raise InputError(f"The metric {metric!r} is unknown; choose one of {', '.join(METRICS)}.")


def _measured(diagnostics: Diagnostics, field: str, metric: str) -> list[float]:
    values = [getattr(block, field) for block in diagnostics.blocks]
    if any(value is None for value in values):
        raise InputError(
            f"These diagnostics lack {field}, which the metric {metric!r} needs; "
            f"run `lieq-edge analyze` with --metric {metric} first."
        )
    if not all(math.isfinite(value) for value in values):
        raise InputError(f"The measured {field} is not finite in some block; choose another metric.")
    return values


def _min_max(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if high == low:
        return [0.0] * len(values)
    return [(value - low) / (high - low) for value in values]
