"""Measurements of a source in one call, as tests need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lieq_edge.allocation.plan import Plan, TensorPlan
from lieq_edge.evidence.blocks.records import Diagnostics
from lieq_edge.evidence.importance.records import Importances
from lieq_edge.evidence.loss.measure import LossEvidence
from lieq_edge.evidence.loss.request import Follow, LossRequest
from lieq_edge.gguf.names import block_of
from lieq_edge.gguf.types import is_matrix
from lieq_edge.pipeline.blocks import BOTH, BlockChoice, measure_diagnostics
from lieq_edge.rounding.base import RoundingTask
from lieq_edge.rounding.walk import encode_blocks
from lieq_edge.runtimes import open_runtime
from lieq_edge.sources.base import Source
from lieq_edge.store import NO_CACHE, Run


def analyze(source: Source, measurements: Iterable[str] = BOTH, **choice: Any) -> Diagnostics:
    """Diagnostics of the blocks."""
    return measure_diagnostics(open_runtime(source), BlockChoice(frozenset(measurements), **choice), NO_CACHE)


def importances(source: Source, tokens: npt.NDArray[np.int64], bfloat16: bool | None = None) -> Importances:
    """Importances on token windows."""
    return open_runtime(source).measure_importances(tokens, run=Run(None), bfloat16=bfloat16)


def loss_evidence(
    source: Source, tokens: npt.NDArray[np.int64], plan: Plan, follow: Follow = Follow.STREAM
) -> LossEvidence:
    """What rounding the tensors of a plan needs; losses of block matrices are left to their turn."""
    types = {tensor.name: (tensor.type,) for tensor in plan.tensors if is_matrix(tensor.name, tensor.shape)}
    inside = {name: names for name, names in types.items() if block_of(name) is not None}
    outside = {name: names for name, names in types.items() if block_of(name) is None}
    request = LossRequest(tokens, 0, inside if follow is Follow.HESSIANS else {}, outside, follow)
    return open_runtime(source).measure_loss(request, NO_CACHE, Run(None))


def encode(source: Source, plan: Plan, loss: LossEvidence) -> Iterator[tuple[TensorPlan, Any]]:
    """The plan's tensors with error feedback."""
    return encode_blocks(RoundingTask(source, plan, {}, loss, None, Run(None), NO_CACHE))
