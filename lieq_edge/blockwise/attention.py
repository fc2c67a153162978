"""Causal attention of short windows, some queries at a time.

PyTorch's fused attention on a CPU computes the half of the scores above the diagonal too, and its products are small.
Here the queries of a piece meet only the keys before them, and those of all heads that share keys meet them in one
product. Scores are float32 whatever the products between them are in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "lieq_causal"
"""What transformers knows this attention by, once ``register`` has run."""

# Scores that are made together: they stay in the processor's cache.
_SCORES = 1 << 21
# Queries that meet their keys together: fewer waste less above the diagonal, more make larger products.
_MOST_QUERIES = 128
_FEWEST_QUERIES = 16
# Longer windows are left to the fused kernel: the graph of a backward pass would keep all their scores.
_LONGEST = 1024
# What a model may ask for beyond plain attention; any of it is left to transformers.
_SPECIAL = ("position_bias", "softcap", "s_aux", "sinks")


def register() -> None:
    """Let transformers models be built with ``attn_implementation=NAME``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

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
    """What transformers' ``sdpa_attention_forward`` gives, for plain causal attention without its waste.

    Args:
        module: the attention layer.
        query: ``(n, heads, T, d)``.
        key, value: ``(n, key heads, T, d)``.
        attention_mask: what transformers has for the model; None where attention is just causal.
        scaling: of the scores; None for ``d ** -0.5``.
        options: what else transformers passes on.

    Returns:
        ``(n, T, heads, d)``, and no weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

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
    quick = torch.is_autocast_enabled("cpu")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast("cpu", enabled=False):
        out = _Causal.apply(query, key, value, scale, quick)
    return out.transpose(1, 2).contiguous(), None


class _Causal(torch.autograd.Function):
    """``(n, heads, T, d)`` of as much; with ``quick``, products are in bfloat16 but for those that make the scores."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, quick: bool) -> Tensor:
        n, heads, length, width = query.shape
        kind = torch.bfloat16 if quick else torch.float32
        # Heads that share keys side by side; sequences and key heads are one dimension, which is what products want.
        queries = torch.mul(query.float(), scale, out=torch.empty(query.shape))
        queries = queries.view(n * key.shape[1], -1, length, width)
        keys, values = key.float().flatten(0, 1), value.to(kind).flatten(0, 1)
        turned = keys.transpose(1, 2).contiguous()
        out = values.new_empty(*queries.shape[:3], values.shape[-1])
        shares = []
        for here in _pieces(query.shape):
            count = here.stop - here.start
            scores = _flat(queries, here) @ turned[:, :, : here.stop]
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
        # What all shares of a query lose together, for they sum to one.
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
        found = (to_queries.mul_(ctx.scale), to_keys, to_values)
        return (*(x.view(n, -1, *x.shape[-2:]).to(kind) for x, kind in zip(found, ctx.kinds, strict=True)), None, None)


def _pieces(shape: tuple[int, ...]) -> list[slice]:
    """Queries to take together out of ``(n, heads, T, d)``."""
    n, heads, length, _ = shape
    fitting = _SCORES // (n * heads * length)
    step = max(_FEWEST_QUERIES, min(fitting & -16, _MOST_QUERIES))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _flat(x: Tensor, here: slice) -> Tensor:
    """Queries ``here`` of ``(n * key heads, group, T, d)``, those of a group in one row: ``(n * key heads, -1, d)``."""
    return x[:, :, here].flatten(1, 2)
