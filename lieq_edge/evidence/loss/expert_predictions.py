"""Predicted losses of experts: tensors as they are stored, so that the experts of a tensor are added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from ...blockwise.workers import Workers
from ...gguf.names import InputGroup
from ...gptq.experts import ExpertInputs, Visits
from ...gptq.factor import factorise
from ...gptq.feedback import DAMPING
from .losses import Losses
from .predictions import RoundingErrors, rounding_errors, with_gain

Floats = npt.NDArray[np.float32]

# Rows that are rounded to predict losses: of each expert at least so many, and of all together about so many.
_LEAST_ROWS = 16
_ROWS = 256


def predict_experts(
    groups: tuple[InputGroup, InputGroup],
    matrices: Mapping[str, Floats],
    inputs: ExpertInputs,
    channels: Mapping[str, Floats],
    held_out_tokens: float,
    candidates: Mapping[str, Sequence[str]],
    workers: Workers,
    *,
    weighted: bool = True,
) -> Losses:
    """Predicted losses by name and type; experts are worked on side by side.

    Args:
        groups: names of gate and up-projection, and of the down-projection.
        matrices: float32 ``(experts, rows, columns)``, by name.
        inputs: what the experts receive, divided.
        channels: what an error of each row counts, ``(experts, rows)``, by name.
        held_out_tokens: number of held-out tokens, visits or not.
        candidates: types to try, by name.
        workers: where experts are worked on.
        weighted: rounding without feedback is weighted by importance.
    """
    if not any(candidates.get(name) for names in groups for name in names):
        return {}
    gate, up = (matrices[name] for name in groups[0])
    experts = range(len(gate))
    rows = max(_LEAST_ROWS, _ROWS // len(experts))
    pools = pooled_hessians(inputs, gate, up, workers)

    def predict(expert: int) -> dict[str, RoundingErrors]:
        found: dict[str, RoundingErrors] = {}
        received: tuple[Visits, Visits] = (inputs.entering(expert), inputs.inside(expert, gate[expert], up[expert]))
        for names, visits, pooled in zip(groups, received, pools, strict=True):
            hessian = inputs.shrunk(visits, pooled)
            factor = factorise(hessian.learned, DAMPING, in_place=True)
            own = {name: matrices[name][expert] for name in names}
            counts = {name: channels[name][expert] for name in names}
            found |= rounding_errors(
                own, hessian, counts, held_out_tokens, candidates, factor, rows=rows, weighted=weighted
            )
        return found

    errors = workers.map(predict, experts)
    return {name: with_gain(candidates[name], reduce(add, (one[name] for one in errors))) for name in errors[0]}


def pooled_hessians(inputs: ExpertInputs, gate: Floats, up: Floats, workers: Workers) -> tuple[Floats, Floats]:
    """H of what all experts receive, and of what is inside them with ``gate`` and ``up``."""
    (entering,) = workers.map(lambda _: inputs.pool_entering(), (0,))
    return entering, pooled_inside(inputs, gate, up, workers)


def pooled_inside(inputs: ExpertInputs, gate: Floats, up: Floats, workers: Workers) -> Floats:
    """The second of ``pooled_hessians``."""
    halves = np.array_split(np.arange(len(gate)), 2)  # always two, so that sums do not depend on the workers
    first, second = workers.map(lambda part: inputs.pool_inside(gate, up, part.tolist()), halves)
    first += second
    return first
