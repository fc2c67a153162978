"""The strongest peer that needs no gradients: types chosen tensor by tensor by weighted relative error.

This is the method of llama.cpp's proposed ``--target-bpw``: for each tensor and candidate type the importance-weighted
squared error of each row, relative to the row's weighted energy, summed over rows; types are chosen on the convex hull
of error over bytes by bisection on a Lagrange multiplier. The file is written by llama.cpp's own quantiser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.internals import Importance, Source, dequantize, encode, make_loss_plan, stage
from benchmarks.peer import quantize_with_llama_cpp
from lieq_edge import Diagnostics, Plan, PlanOptions

# Rows of a tensor that are encoded to estimate its errors.
_ROWS = 512


def weighted_errors(
    source: Source, importance: Importance, candidates: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Relative weighted squared error by tensor and type, summed over the tensor's rows.

    Args:
        source: the model.
        importance: importance of the input columns by tensor name; a tensor that is missing has equal columns.
        candidates: ggml types by tensor name.
    """
    errors: dict[str, dict[str, float]] = {}
    with stage("Weighted errors of types", len(candidates)) as advance:
        for name, types in candidates.items():
            matrix = source.read(name)
            rows = np.linspace(0, len(matrix) - 1, min(_ROWS, len(matrix)), dtype=np.int64)
            sample = np.ascontiguousarray(matrix[rows])
            weights = importance.get(name)
            columns = np.ones(sample.shape[1], np.float32) if weights is None else weights
            energy = np.maximum(np.square(sample) @ columns, 1e-30)
            errors[name] = {}
            for kind in types:
                decoded = dequantize(encode(sample, kind, weights), kind, sample.shape)
                lost = np.square(sample - decoded) @ columns
                errors[name][kind] = float((lost / energy).mean() * len(matrix))
            advance()
    return errors


def write_lagrange(
    reference: Path,
    out: Path,
    diagnostics: Diagnostics,
    errors: Mapping[str, Mapping[str, float]],
    importance: Importance,
    budget: str,
) -> Plan:
    """Write ``reference`` with the types of least error under ``budget``; the plan that was followed."""
    plan = make_loss_plan(diagnostics, budget, errors, PlanOptions(metric="loss", granularity="tensor"))
    types = {tensor.name: tensor.type for tensor in plan.tensors if tensor.name in errors}
    quantize_with_llama_cpp(
        reference,
        out,
        "Q4_K_M",  # for vectors; every matrix has a type of its own
        imatrix=importance,
        tensor_types={f"^{re.escape(name)}$": kind for name, kind in types.items()},
        token_embedding_type=types.get("token_embd.weight"),
        output_type=types.get("output.weight"),
    )
    return plan
