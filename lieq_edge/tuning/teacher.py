"""What the original predicts: its likeliest next tokens at each position, and their probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..blockwise.model import BlockModel
from ..blockwise.precision import fast_products
from ..blockwise.sixteen_bits import cast_once
from ..system.progress import stage

LIKELIEST = 64
"""Number of tokens whose probabilities are stored; all others count as one."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of the original for windows of tokens.

    Attributes:
        tokens: token ids, int64 ``(n, T)``.
        ids: likeliest next tokens, int32 ``(n, T, k)``.
        logs: logarithms of their probabilities, float16 ``(n, T, k)``.
    """

    tokens: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]
    logs: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.tokens)

    def of(self, which: slice | list[int]) -> Predictions:
        """Those of some windows."""
        return Predictions(self.tokens[which], self.ids[which], self.logs[which])


def predict(model: BlockModel, tokens: npt.NDArray[np.int64]) -> Predictions:
    """Run windows ``(n, T)`` through the original, block by block."""
    ids = torch.from_numpy(tokens)
    count = min(LIKELIEST, model.causal_lm.get_output_embeddings().weight.shape[0])
    shape = (*tokens.shape, count)
    likeliest, logs = torch.empty(shape, dtype=torch.int32), torch.empty(shape, dtype=torch.float16)
    with torch.no_grad(), fast_products(), stage("Reading the original's predictions", model.n_blocks + 1) as advance:
        hidden = model.embed(ids).clone()
        for index in range(model.n_blocks):
            with model.block(index) as module:
                model.advance(module, index, hidden)
            advance()
        flat = hidden.flatten(0, 1)
        with cast_once(model.causal_lm.get_output_embeddings()):
            for rows, logits in model.logit_chunks(flat):
                values, places = torch.log_softmax(logits.float(), -1).topk(count)
                likeliest.flatten(0, 1)[rows], logs.flatten(0, 1)[rows] = places.int(), values.half()
        advance()
    return Predictions(tokens, likeliest.numpy(), logs.numpy())


def divergence(logits: Tensor, ids: Tensor, logs: Tensor, *, slope: bool) -> tuple[Tensor, Tensor | None]:
    """KL divergence of predictions from the original's, and its gradient.

    Args:
        logits: float32 ``(N, vocabulary)``.
        ids: likeliest tokens of the original, ``(N, k)``.
        logs: logarithms of their probabilities, float32 ``(N, k)``. All other tokens count as one.
        slope: True computes the gradient too.

    Returns:
        Divergence in nats, ``(N,)``; and the gradient of its sum at ``logits``, whose memory it may take.
    """
    likely = torch.log_softmax(logits, -1)
    chosen = likely.gather(1, ids)
    probabilities = logs.exp()
    rest = (1 - probabilities.sum(-1)).clamp_min(1e-6)
    rest_here = (1 - chosen.exp().sum(-1)).clamp_min(1e-6)
    kl = (probabilities * (logs - chosen)).sum(-1) + rest * (rest / rest_here).log()
    if not slope:
        return kl, None
    gradient = likely.exp_()
    kept = gradient.gather(1, ids) - probabilities
    gradient.mul_((1 - rest / rest_here)[:, None])
    return kl, gradient.scatter_(1, ids, kept)
