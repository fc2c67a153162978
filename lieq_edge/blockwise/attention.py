"""Causal attention for short windows, some queries at a time.

PyTorch's fused attention on a CPU also computes the half of the scores above the diagonal, and its products are small.
Here the queries of a piece are multiplied only with the keys up to them, for all heads that share keys in one product.
Scores are always float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "lieq_causal"
"""Name of this attention in transformers, after ``register``."""

# Scores that are computed together, so that they stay in the cache.
_SCORES = 1 << 21
# Queries in one product: fewer waste less above the diagonal, more make larger products.
_MOST_QUERIES = 128
_FEWEST_QUERIES = 16
# Longer windows are left to the fused kernel, because the graph of a backward pass would keep all their scores.
_LONGEST = 1024
# Options beyond plain attention; calls with any of them are left to transformers.
_SPECIAL = ("position_bias", "softcap", "s_aux", "sinks")


def register() -> None:
    """Let transformers build models with ``attn_implementation=NAME``."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Same result as transformers' ``sdpa_attention_forward``; faster for plain causal attention.

    Args:
        module: the attention layer.
        query: ``(n, heads, T, d)``.
        key, value: ``(n, key heads, T, d)``.
        attention_mask: mask from transformers; None if attention is just causal.
        scaling: factor of the scores; None for ``d ** -0.5``.
        options: other arguments from transformers.

    Returns:
        Output ``(n, T, heads, d)``, and None for the attention weights.
    """
    length = query.shape[2]
    causal = options.get("is_causal")
    plain = (
        attention_mask is None
        and (getattr(module, "is_causal", True) if causal is None else causal)
        and 1 < length <= _LONGEST
        and length == key.shape[2]
        and not any(options.get(name) is not None for name in _SPECIAL)
    )
    if not plain:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
        return out, None
    in_bfloat16 = torch.is_autocast_enabled("cpu")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        out = _Causal.apply(query, key, value, scale, in_bfloat16)
    return out.transpose(1, 2).contiguous(), None


class _Causal(torch.autograd.Function):
    """Attention output ``(n, heads, T, d)``; with ``in_bfloat16``, only products that give scores are in float32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, in_bfloat16: bool) -> Tensor:
        n, heads, length, width = query.shape
        kind = torch.bfloat16 if in_bfloat16 else torch.float32
        # Heads that share keys are adjacent; sequences and key heads are one batch dimension of the products.
        queries = torch.mul(query.float(), scale, out=torch.empty(query.shape))
        queries = queries.view(n * key.shape[1], -1, length, width)
        keys, values = key.float().flatten(0, 1), value.to(kind).flatten(0, 1)
        transposed_keys = keys.transpose(1, 2).contiguous()
        out = values.new_empty(*queries.shape[:3], values.shape[-1])
        shares = []
        for here in _pieces(query.shape):
            count = here.stop - here.start
            scores = _flat(queries, here) @ transposed_keys[:, :, : here.stop]
            later = torch.ones(count, count, dtype=torch.bool).triu(1)
            scores.view(len(keys), -1, count, here.stop)[..., here].masked_fill_(later, -torch.inf)
            part = torch.softmax(scores, -1).to(kind)
            out[:, :, here] = (part @ values[:, : here.stop]).view_as(out[:, :, here])
            shares.append(part)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries.to(kind), keys.to(kind), values, out, *shares)
            ctx.scale, ctx.kinds, ctx.sequences = scale, (query.dtype, key.dtype, value.dtype), n
        return out.view(n, heads, length, -1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, out, *shares = ctx.saved_tensors
        n = ctx.sequences
        slope = slopes[0].to(values.dtype).reshape(out.shape)
        # The gradient of a softmax has this mean subtracted, because the shares of a query sum to one.
        level = (slope.float() * out).sum(-1, keepdim=True)
        to_queries = torch.empty_like(queries, dtype=torch.float32)
        to_keys, to_values = (torch.zeros_like(x, dtype=torch.float32) for x in (keys, values))
        for here, part in zip(_pieces(slopes[0].shape), shares, strict=True):
            before = slice(0, here.stop)
            piece = _flat(slope, here)
            to_values[:, before] += part.transpose(1, 2) @ piece
            scores = (piece @ values[:, before].transpose(1, 2)).float()
            scores = scores.sub_(_flat(level, here)).mul_(part).to(values.dtype)
            to_queries[:, :, here] = (scores @ keys[:, before]).view_as(to_queries[:, :, here])
            to_keys[:, before] += scores.transpose(1, 2) @ _flat(queries, here)
        slopes_in = (to_queries.mul_(ctx.scale), to_keys, to_values)
        cast = (x.view(n, -1, *x.shape[-2:]).to(kind) for x, kind in zip(slopes_in, ctx.kinds, strict=True))
        return (*cast, None, None)


def _pieces(shape: tuple[int, ...]) -> list[slice]:
    """Pieces of the T queries of ``(n, heads, T, d)``."""
    n, heads, length, _ = shape
    fitting = _SCORES // (n * heads * length)
    step = max(_FEWEST_QUERIES, min(fitting & -16, _MOST_QUERIES))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _flat(x: Tensor, here: slice) -> Tensor:
    """Queries ``here`` of ``(n * key heads, group, T, d)``, with group and T as one dimension."""
    return x[:, :, here].flatten(1, 2)
