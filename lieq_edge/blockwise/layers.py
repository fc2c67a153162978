"""Modules that take the place of transformers' own, and what else of a model is handled without transformers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import InputError


class HeadNorms(nn.Module):
    """LayerNorm over each head of ``(n, heads, T, d)``, with separate weights for each head."""

    def __init__(self, heads: int, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width, device="meta"))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(x, x.shape[-1:], eps=self._eps)
        return normed * self.weight[:, None]


class ExpertMatrices(nn.Module):
    """One projection of all experts: ``weight`` is ``(experts, rows, columns)``."""

    def __init__(self, experts: int, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, rows, columns, device="meta"))

    def forward(self, x: Tensor, expert: int, token: Tensor) -> Tensor:
        """Output ``(visits, rows)`` of one expert.

        Args:
            x: ``(visits, columns)``.
            expert: index of the expert.
            token: indices of the tokens that visit it, ``(visits,)``, for hooks.
        """
        return nn.functional.linear(x, self.weight[expert])


class Experts(nn.Module):
    """Gated MLPs of a mixture; the router chooses some of them for each token, with weights."""

    def __init__(self, experts: int, hidden: int, intermediate: int, activation: nn.Module) -> None:
        super().__init__()
        self.experts = experts
        self.gate_proj = ExpertMatrices(experts, intermediate, hidden)
        self.up_proj = ExpertMatrices(experts, intermediate, hidden)
        self.down_proj = ExpertMatrices(experts, hidden, intermediate)
        self._activation = activation

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' outputs.

        Args:
            hidden: ``(tokens, d)``.
            chosen: indices of the experts of each token, ``(tokens, choices)``.
            weights: weights of these, like ``chosen``.

        Returns:
            ``(tokens, d)``.
        """
        result = torch.zeros_like(hidden)
        for expert in chosen.unique().tolist():
            token, choice = torch.where(chosen == expert)
            x = hidden[token]
            inner = self._activation(self.gate_proj(x, expert, token)) * self.up_proj(x, expert, token)
            result = result.index_add(0, token, self.down_proj(inner, expert, token) * weights[token, choice, None])
        return result


def gated(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """What the down-projection of an expert reads, ``(visits, inner)``, for its inputs ``(visits, columns)``.

    llama.cpp's graphs of mixtures have this activation only.
    """
    return nn.functional.silu(x @ gate.T) * (x @ up.T)


class BelowHead:
    """Stands for the output of a model below its head: hidden states, and None for every other attribute."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


def block_list(inner: nn.Module, n_blocks: int) -> nn.ModuleList:
    """The blocks of a model below its head.

    Raises:
        InputError: the model does not have ``n_blocks`` blocks.
    """
    for module in inner.children():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module
    raise InputError(
        f"The model's configuration does not describe {n_blocks} blocks; its files do not belong together."
    )
