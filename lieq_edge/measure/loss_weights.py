"""How much the model's loss minds an error at each token and output of each linear layer: one backward pass.

The loss is the model's own: labels are sampled from its predictions, so that the mean of squared gradients is the
diagonal of the true Fisher matrix. For a linear layer z = W x with g_t = dL/dz_t, an error E of the weights raises the
loss by about ``1/2 sum_t (g_t . E x_t)^2``. Kept of g are its mean square at each token,
``w_t = mean_c g_{t,c}^2``, and its energy at each output channel, ``a_c = sum_t g_{t,c}^2``: two vectors a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..progress import stage
from .model import BlockModel

# Inputs of all blocks are kept for so many bytes' worth of sequences at once.
_KEPT_BYTES = 512_000_000


@dataclass(frozen=True)
class LossWeights:
    """Squared gradients of the loss (nats) at the outputs of linear layers, by GGUF tensor name.

    Attributes:
        tokens: w_t, float32 ``(n, T)``.
        channels: a_c divided by its mean, float32 ``(outputs,)``.
        embedding: sum over the uses of a token of the mean squared gradient at its embedding, ``(vocabulary,)``.
        embedding_columns: the same gradients' energy by column, divided by its mean, ``(d,)``.
    """

    tokens: dict[str, Tensor]
    channels: dict[str, Tensor]
    embedding: Tensor
    embedding_columns: Tensor


def measure_loss_weights(model: BlockModel, tokens: Tensor, *, seed: int = 0) -> LossWeights:
    """Run token windows forward and backward through the model, block by block.

    Args:
        model: in full precision.
        tokens: ids ``(n, T)``.
        seed: of the sampled labels.

    Returns:
        The weights of every linear of every block, of the head, and of the embedding.

    Raises:
        InputError: a gradient is NaN or Inf.
    """
    collector = _Collector(model, tokens)
    generator = torch.Generator().manual_seed(seed)
    width = model.causal_lm.get_input_embeddings().weight.shape[1]
    step = max(1, _KEPT_BYTES // (4 * model.n_blocks * tokens.shape[1] * width))
    batches = list(range(0, tokens.shape[0], step))
    with stage("Measuring loss weights", 2 * model.n_blocks * len(batches)) as advance:
        for start in batches:
            batch = slice(start, start + step)
            inputs = []
            with torch.no_grad():
                hidden = model.embed(tokens[batch])
                for index in range(model.n_blocks):
                    inputs.append(hidden)
                    with model.block(index) as module:
                        hidden = hidden.clone()
                        model.advance(module, index, hidden)
                    advance()
            gradient = collector.head(batch, hidden, generator)
            for index in reversed(range(model.n_blocks)):
                with model.block(index) as module:
                    gradient = collector.block(module, index, batch, inputs.pop(), gradient)
                advance()
            collector.embedding(batch, gradient)
    return collector.result()


class _Collector:
    """Sums of squared gradients while batches of sequences go backward."""

    def __init__(self, model: BlockModel, tokens: Tensor) -> None:
        self.model = model
        self.ids = tokens
        vocabulary, width = model.causal_lm.get_input_embeddings().weight.shape
        self.tokens: dict[str, Tensor] = {}
        self.channels: dict[str, Tensor] = {}
        self.uses = torch.zeros(vocabulary, dtype=torch.float64)
        self.columns = torch.zeros(width, dtype=torch.float64)

    def head(self, batch: slice, hidden: Tensor, generator: torch.Generator) -> Tensor:
        """Gradient ``(b, T, d)`` of the summed loss at the last block's output."""
        flat = hidden.flatten(0, 1)
        gradient = torch.empty_like(flat)
        weights = torch.empty(flat.shape[0])
        energy = torch.zeros(self.model.causal_lm.get_output_embeddings().weight.shape[0], dtype=torch.float64)
        for rows in self.model.logit_rows(flat.shape[0]):
            piece = flat[rows].detach().requires_grad_()
            products, logits = self.model.head(piece)
            if products is not logits:
                products.retain_grad()
            slope = torch.softmax(logits.detach(), dim=-1)
            labels = torch.multinomial(slope, 1, generator=generator)
            # d(cross entropy)/d(logits) = softmax - one-hot.
            slope.scatter_add_(1, labels, torch.full_like(labels, -1.0, dtype=slope.dtype))
            logits.backward(slope)
            assert piece.grad is not None
            gradient[rows] = piece.grad
            # The gradient at what the matrix gives, which the loss weights of the head are about.
            at_products = slope if products is logits else products.grad
            assert at_products is not None
            squares = at_products.square_()
            weights[rows] = squares.mean(-1)
            energy += squares.sum(0)
        self._add(self.model.head_name, batch, weights.view(hidden.shape[:2]), energy)
        return gradient.view_as(hidden)

    def block(self, module: nn.Module, index: int, batch: slice, hidden: Tensor, gradient: Tensor) -> Tensor:
        """Gradient at a block's input from that at its output, a few sequences at a time."""
        result = torch.empty_like(hidden)
        linears = self.model.linears(module, index)
        for row in range(hidden.shape[0]):
            one = slice((batch.start or 0) + row, (batch.start or 0) + row + 1)
            hooks = [
                linear.register_forward_hook(
                    lambda _, __, out, name=name, one=one: (
                        out.register_hook(lambda g, name=name, one=one: self._collect(name, one, g)) and None
                    )
                )
                for name, linear in linears.items()
            ]
            try:
                piece = hidden[row : row + 1].detach().requires_grad_()
                self.model.run_block(module, index, piece).backward(gradient[row : row + 1])
            finally:
                for hook in hooks:
                    hook.remove()
            assert piece.grad is not None
            result[row] = piece.grad[0]
        return result

    def embedding(self, batch: slice, gradient: Tensor) -> None:
        """Gradients at the embeddings, by the token that used them."""
        squares = (gradient * self.model.embedding_scale).square().flatten(0, 1).double()
        self.uses.index_add_(0, self.ids[batch].flatten(), squares.mean(-1))
        self.columns += squares.sum(0)

    def _collect(self, name: str, batch: slice, gradient: Tensor) -> None:
        squares = gradient.square()
        self._add(name, batch, squares.mean(-1), squares.flatten(0, -2).sum(0).double())

    def _add(self, name: str, batch: slice, weights: Tensor, energy: Tensor) -> None:
        if name not in self.tokens:
            self.tokens[name] = torch.zeros(self.ids.shape)
            self.channels[name] = torch.zeros_like(energy)
        self.tokens[name][batch] = weights
        self.channels[name] += energy

    def result(self) -> LossWeights:
        """All sums, scaled; checked to be numbers."""
        for name, weights in self.tokens.items():
            if not bool(torch.isfinite(weights).all()):
                raise InputError(
                    f"The gradients at {name} are NaN or Inf on the calibration text; the model is damaged."
                )
        return LossWeights(
            tokens=self.tokens,
            channels={name: _relative(energy) for name, energy in self.channels.items()},
            embedding=self.uses.float(),
            embedding_columns=_relative(self.columns),
        )


def _relative(energy: Tensor) -> Tensor:
    """``energy`` over its mean, as float32; ones where there is none."""
    mean = energy.mean()
    return (energy / mean).float() if mean > 0 else torch.ones(energy.shape)
