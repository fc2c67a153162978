"""Functional saliency dPPL of every block in one sweep (LieQ, Eqs 1-2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...blockwise.model import BlockModel
from ...blockwise.precision import fast_products, takes_bfloat16
from ...blockwise.sixteen_bits import cast_once


class SaliencyPass:
    """Perplexity with each block left out, and of the whole model, in a single sweep over the blocks.

    The model without block l shares its first l blocks with the whole model. So the hidden states of the whole
    model and of all "without block j" with j < l go through block l together, and a new variant branches off
    there: about half the work of removing blocks one after another, and each block is read once.

    Memory: (blocks + 1) * tokens * width floats; ``windows_at_once`` gives the amount of text that this allows.
    """

    def __init__(self, model: BlockModel, tokens: Tensor, *, bfloat16: bool | None = None) -> None:
        """Embed the text.

        Args:
            model: model to measure.
            tokens: token ids, ``(n, T)``.
            bfloat16: see ``precision.takes_bfloat16``.
        """
        self._model = model
        self._quick = takes_bfloat16(model.source, bfloat16)
        self._tokens = tokens
        base = model.embed(tokens)
        # Row l is the model without block l, the last row the whole model.
        self._hidden = torch.empty(model.n_blocks + 1, *base.shape)
        self._hidden[-1] = base

    def step(self, module: nn.Module, index: int) -> None:
        """Take every variant through block ``index``; the variant that leaves it out starts here."""
        self._hidden[index] = self._hidden[-1]
        with fast_products(self._quick), cast_once(module):
            for variant in (*range(index), -1):
                self._model.advance(module, index, self._hidden[variant])

    def losses(self) -> Tensor:
        """Sum of the next-token losses in nats, float64 ``(blocks + 1,)``, the whole model's last."""
        model = self._model
        with fast_products(self._quick), cast_once(model.causal_lm.get_output_embeddings()):
            return torch.stack([model.token_losses(h, self._tokens).double().sum() for h in self._hidden])


def windows_at_once(model: BlockModel, length: int, memory_bytes: int = 512_000_000) -> int:
    """Number of windows of ``length`` tokens that one ``SaliencyPass`` takes within ``memory_bytes``, at least 1."""
    width = model.causal_lm.get_input_embeddings().weight.shape[1]
    return max(1, memory_bytes // (4 * width * length * (model.n_blocks + 1)))


def perplexity_drops(losses: Tensor, count: int) -> tuple[float, list[float]]:
    """Perplexity of the whole model and ``dPPL_l = PPL(without block l) - PPL`` of each block.

    Args:
        losses: summed losses, as ``SaliencyPass.losses`` gives them, ``(blocks + 1,)``.
        count: number of predicted tokens.
    """
    ppl = [math.exp(min(loss / count, 700.0)) for loss in losses.tolist()]
    return ppl[-1], [without - ppl[-1] for without in ppl[:-1]]
