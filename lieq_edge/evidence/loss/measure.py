"""Loss-aware measurements for an export: loss weights and predicted losses, ready for allocation and rounding."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...allocate.loss import Losses
from ...allocate.plan import Plan
from ...errors import InputError
from ...gguf.types import I_QUANTS, TYPES, is_matrix
from ...store import NO_CACHE, Cache, Entry, Run, Steps
from ...system.memory import keep_freed_memory
from ...system.progress import stage
from ..blocks.records import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...blockwise.model import BlockModel
    from ...blockwise.residual import ResidualStream
    from ...rounding.sequential import FeedbackInputs
    from ...sources.base import Source
    from ...texts.windows import Windows
    from .hessians import KeptMoments
    from .predictions import Sensitivity

K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
"""Candidates for rows of a multiple of 256, all with fast kernels on ARM."""

NARROW: tuple[str, ...] = ("Q2_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Candidates for other rows. ggml encodes Q2_0 without looking for a scale; it serves with our own search for one."""


def candidate_types(tensors: Sequence[TensorInfo], types: str, *, strict: bool = True) -> dict[str, tuple[str, ...]]:
    """Types to try for each matrix.

    Args:
        tensors: of the model.
        types: ``k``, ``all``, or type names with commas between them.
        strict: refuse a matrix that none of them fits, and do not just give it none.

    Raises:
        InputError: a name is unknown, or none of the types fits a matrix.
    """
    if types in ("k", "all"):
        names: tuple[str, ...] = (*K_QUANTS, *(I_QUANTS if types == "all" else ()))
        narrow = NARROW
    else:
        names = narrow = tuple(dict.fromkeys(name.strip().upper() for name in types.split(",")))
        for name in names:
            if name not in TYPES:
                raise InputError(f"The type {name!r} is unknown; choose k, all, or some of {', '.join(TYPES)}.")
    found = {}
    for tensor in tensors:
        if not is_matrix(tensor.name, tensor.shape):
            continue
        columns = tensor.shape[-1]
        fitting = tuple(name for name in (names if columns % 256 == 0 else narrow) if TYPES[name].fits(columns))
        if not fitting and strict:
            raise InputError(f"None of the types {types} fits the rows of {columns} weights of {tensor.name}; add one.")
        found[tensor.name] = fitting
    return found


def planned_types(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The one type of each matrix of a plan."""
    return {tensor.name: (tensor.type,) for tensor in plan.tensors if is_matrix(tensor.name, tensor.shape)}


def measure_loss(
    source: Source,
    windows: Windows,
    candidates: Mapping[str, Sequence[str]],
    *,
    predict_blocks: bool = True,
    seed: int = 0,
    threads: int | None = None,
    cache: Cache = NO_CACHE,
    once: bool = False,
    waiting: Run | None = None,
) -> FeedbackInputs:
    """Loss weights on the calibration ``windows``, and the predicted losses of the candidate types.

    Args:
        source: the model.
        windows: of the calibration text.
        candidates: types by tensor name.
        predict_blocks: predict the block matrices too. Only allocation by loss and ``once`` need that: rounding
            else judges each of them when its turn comes.
        seed: of the sampled labels.
        threads: CPU threads.
        cache: for results of this model.
        once: measure all that rounding needs of the blocks, from the original.
        waiting: where the residual stream is put away for rounding, which goes on without else; or with ``once`` H,
            which rounding cannot go on without.
    """
    import torch

    from ...blockwise.model import BlockModel
    from ...blockwise.precision import fast_products
    from ...blockwise.residual import ResidualStream
    from ...blockwise.threads import use_threads
    from ...blockwise.workers import Workers
    from ...gptq.hessian import held_out_sequences
    from ...rounding.sequential import FeedbackInputs
    from .entries import Measured
    from .hessians import KeptMoments
    from .predictions import Sensitivity, losses_from_json, losses_to_json, predict_outer

    held_out_sequences(len(windows))  # too few windows are told before any work
    tokens = torch.from_numpy(windows)
    parts = moments_parts(windows, seed)
    predicted = predict_blocks or once
    wanted = {name: list(types) for name, types in candidates.items() if predicted and name.startswith("blk.")}
    # What follows runs no model where all is there.
    keep_freed_memory()
    use_threads(threads)
    moments = KeptMoments(waiting, source.n_blocks) if once and waiting is not None else None
    predictions = {**parts, "candidates": wanted, "once": once}
    weights = cache.get("loss-weights", parts)
    found = cache.get("loss-predictions", predictions) if wanted else Entry(record={})
    model = stream = None

    def build() -> tuple[BlockModel, ResidualStream | None]:
        model = BlockModel(source, threads=threads)
        return model, ResidualStream(model, tokens, waiting, inside=True) if waiting is not None and not once else None

    if weights is None or found is None or (moments is not None and not moments.complete()):
        model, stream = build()
        weights, found = _measure(model, tokens, predictions, threads, cache, stream, moments)
    elif not once:
        model, stream = build()
        if stream is not None:
            # Within the workers' limits, as when loss weights are measured: sums may depend on threads.
            with Workers(threads), stage("Running the original", model.n_blocks) as advance, fast_products():
                stream.forward(advance)
    measured = Measured.of_entry(weights)
    outer = {name: list(candidates.get(name, ())) for name in measured.outer}

    def predict() -> Entry:
        return Entry(record=losses_to_json(predict_outer(source, measured.outer, tokens.shape, outer)))

    outer_losses = cache.entry("outer-predictions", {**parts, "candidates": outer}, predict)
    losses = losses_from_json({**found.record, **outer_losses.record})
    if model is not None:
        # Rounding overwrites blocks as it goes, so it reads each anew.
        model.stop_keeping()
    merged = {name: own.merge() for name, (own, _) in measured.outer.items()}
    needed = model if moments is None else None
    return FeedbackInputs(needed, tokens, measured.weights, Sensitivity(losses, merged), stream, moments)


def moments_parts(windows: Windows, seed: int) -> dict[str, Any]:
    """What loss weights and moments depend on beside the model."""
    return {"tokens": windows, "seed": seed}


def _measure(
    model: BlockModel,
    tokens: Tensor,
    predictions: Mapping[str, Any],
    threads: int | None,
    cache: Cache,
    original: ResidualStream | None,
    moments: KeptMoments | None,
) -> tuple[Entry, Entry]:
    """Loss weights with H outside the blocks, and predictions for the block matrices; H of these goes to ``moments``.

    ``predictions`` are what the second depend on.
    """
    from ...blockwise.workers import Workers
    from ...gptq import hessian as statistics
    from . import predictions as sensitivity
    from .entries import Measured
    from .predictions import Predictor, outer_moments
    from .weights import measure_loss_weights

    by_block: dict[int, Any] = {}
    candidates, seed = predictions["candidates"], predictions["seed"]
    parts = {name: predictions[name] for name in ("tokens", "seed")}
    kept = statistics.KEPT if predictions["once"] else sensitivity.KEPT
    with cache.run("loss-weights", predictions) as run, Workers(threads) as workers:
        steps = Steps(run, range(model.n_blocks, -1, -1))
        if moments is not None and any(steps.is_done(i) and not moments.has(i) for i in range(model.n_blocks)):
            steps.forget()  # their blocks have to be run again

        def listen(module: nn.Module, index: int) -> Predictor:
            keep = functools.partial(moments.put, index) if moments is not None else None
            return Predictor(model.linears(module, index), tokens.shape, candidates, workers, keep, kept)

        weights, hidden = measure_loss_weights(
            model,
            tokens,
            seed=seed,
            listen=listen if candidates else None,
            found=by_block,
            run=run,
            original=original,
        )
        entry = Measured(weights, outer_moments(model, hidden, weights)).entry()
        cache.put("loss-weights", parts, entry)
        losses = Entry(record={name: loss for found in by_block.values() for name, loss in (found or {}).items()})
        if candidates:
            cache.put("loss-predictions", predictions, losses)
    return entry, losses


def losses_of(sensitivity: Sensitivity, rounding: str) -> Losses:
    """Predicted losses with the rounding that the file will get."""
    return {
        name: {
            kind: found.nearest_loss if rounding in ("nearest", "imatrix") else found.loss
            for kind, found in by_type.items()
        }
        for name, by_type in sensitivity.losses.items()
    }
