"""The passes over a model that loss weights, Hessians and predicted losses come from."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from ...blockwise.mixture import mixture_of
from ...blockwise.model import BlockModel
from ...blockwise.precision import takes_bfloat16
from ...blockwise.residual import ResidualStream
from ...blockwise.workers import Workers
from ...gptq import hessian
from ...store import Cache, Entry, Steps
from . import predictions, weights
from .entries import Measured
from .hessians import BlockHessians
from .predictions import outer_hessians
from .predictions import predict_outer as predict_outer
from .predictor import Predictor
from .request import Follow, LossRequest


def pass_back(
    model: BlockModel,
    tokens: Tensor,
    request: LossRequest,
    threads: int | None,
    cache: Cache,
    stream: ResidualStream | None,
    hessians: BlockHessians | None,
) -> tuple[Entry, Entry]:
    """Loss weights with H outside the blocks, and predictions for the block matrices; H of these is stored."""
    by_block: dict[int, Any] = {}
    with cache.run("loss-weights", request.prediction_parts) as run, Workers(threads) as workers:
        steps = Steps(run, range(model.n_blocks, -1, -1))
        if hessians is not None and any(steps.is_done(i) and not hessians.has(i) for i in range(model.n_blocks)):
            steps.forget()  # blocks without a stored H have to run again

        def listen(module: nn.Module, index: int) -> Predictor:
            return Predictor(
                model.linears(module, index),
                tokens.shape,
                request.blocks,
                workers,
                mixture=mixture_of(model, module, index),
                store=functools.partial(hessians.put, index) if hessians is not None else None,
                share=hessian.KEPT if request.follow is Follow.HESSIANS else predictions.KEPT,
                weighted=request.weighted,
                rows=request.rows,
            )

        loss_weights, hidden = weights.measure_loss_weights(
            model,
            tokens,
            seed=request.seed,
            bfloat16=takes_bfloat16(model.source),
            listen=listen if request.blocks else None,
            results=by_block,
            run=run,
            original=stream,
        )
        entry = Measured(loss_weights, outer_hessians(model, hidden, loss_weights)).entry()
        cache.put("loss-weights", request.text_parts, entry)
        losses = Entry(record={name: loss for block in by_block.values() for name, loss in (block or {}).items()})
        if request.blocks:
            cache.put("loss-predictions", request.prediction_parts, losses)
    return entry, losses
