"""Loss weights and predicted losses of a model, ready for allocation and rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...blockwise.model import BlockModel
from ...blockwise.precision import fast_products, takes_bfloat16
from ...blockwise.residual import ResidualStream
from ...blockwise.threads import use_threads
from ...blockwise.workers import Workers
from ...gptq.hessian import Floats, held_out_sequences
from ...sources.base import Source
from ...store import Cache, Entry, Run
from ...system.memory import keep_freed_memory
from ...system.progress import stage
from .entries import Measured
from .hessians import BlockHessians
from .losses import Losses, losses_from_json, losses_to_json
from .request import Follow, LossRequest
from .weights import LossWeights


@dataclass(frozen=True)
class OriginalStream:
    """The original, to be followed block by block.

    Attributes:
        model: model whose blocks are read again each time, because rounding overwrites them.
        stream: residual stream on the calibration text, inside blocks too.
    """

    model: BlockModel
    stream: ResidualStream


@dataclass
class LossEvidence:
    """Evidence about the loss.

    Attributes:
        tokens: calibration windows, ``(n, T)``.
        weights: loss weights on them.
        losses: predicted losses by tensor and type, from held-out sequences. With ``Follow.STREAM`` the block matrices
            may be missing; they are judged when they are rounded.
        outer: H of the matrices outside the blocks, by GGUF name, float32 ``(columns, columns)``.
        original: residual stream or Hessians to round by; None if neither was requested.
    """

    tokens: Tensor
    weights: LossWeights
    losses: Losses
    outer: dict[str, Floats]
    original: OriginalStream | BlockHessians | None


def measure_loss(
    source: Source, request: LossRequest, *, threads: int | None, cache: Cache, run: Run | None
) -> LossEvidence:
    """Measure loss weights on the calibration windows, and predict the losses of the candidate types.

    Args:
        source: model with the weights.
        request: measurements to make.
        threads: number of CPU threads, None for all cores.
        cache: cache for results of this model.
        run: run that stores the residual stream or the Hessians; None stores neither.

    Raises:
        InputError: there are fewer than two windows, or a gradient is not finite.
    """
    held_out_sequences(len(request.windows))  # too few windows are refused before any work
    tokens = torch.from_numpy(request.windows)
    keep_freed_memory()
    use_threads(threads)
    follow = request.follow if run is not None else Follow.NOTHING
    hessians = BlockHessians(run, source.n_blocks) if run is not None and follow is Follow.HESSIANS else None
    entry = cache.get("loss-weights", request.text_parts)
    predicted = cache.get("loss-predictions", request.prediction_parts) if request.blocks else Entry(record={})
    is_measured = entry is not None and predicted is not None and (hessians is None or hessians.complete())
    model = stream = None
    if not is_measured or follow is Follow.STREAM:
        model = BlockModel(source, threads=threads)
        if run is not None and follow is Follow.STREAM:
            stream = ResidualStream(model, tokens, run, inside=True)
    if model is not None and not is_measured:
        entry, predicted = _passes().pass_back(model, tokens, request, threads, cache, stream, hessians)
    elif model is not None and stream is not None:
        quick = takes_bfloat16(source)
        # Within the workers' limits, as when loss weights are measured: sums may depend on threads.
        with Workers(threads), stage("Running the original", model.n_blocks) as advance, fast_products(quick):
            stream.forward(advance)
    assert entry is not None
    assert predicted is not None
    measured = Measured.of_entry(entry)
    outer = {name: list(request.outer.get(name, ())) for name in measured.outer}

    def predict() -> Entry:
        predictions = _passes().predict_outer(source, measured.outer, tokens.shape, outer, weighted=request.weighted)
        return Entry(record=losses_to_json(predictions))

    parts = {**request.text_parts, "candidates": outer, "weighted": request.weighted}
    losses = losses_from_json({**predicted.record, **cache.entry("outer-predictions", parts, predict).record})
    original: OriginalStream | BlockHessians | None = hessians
    if model is not None:
        # Rounding overwrites blocks, so each has to be read again.
        model.stop_keeping()
        if stream is not None:
            original = OriginalStream(model, stream)
    outer_matrices = {name: parts.merge() for name, (parts, _) in measured.outer.items()}
    return LossEvidence(tokens, measured.weights, losses, outer_matrices, original)


def _passes() -> Any:
    """The passes over the model, with which numba comes: another budget of a measured model does without."""
    from . import passes

    return passes
