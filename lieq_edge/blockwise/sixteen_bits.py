"""Embeddings and heads that stay in the 16 bits in which they are stored, and compute as if in float32."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
"""PyTorch's types by their name in safetensors and gguf."""

# Weights that are cast to float32 at a time, so that they stay in the cache.
_PIECE = 1 << 20


def suits(module: nn.Module) -> bool:
    """True for modules whose matrix may have 16 bits. Subclasses may use it in other ways."""
    return type(module) is nn.Embedding or (type(module) is nn.Linear and module.bias is None)


def keep_sixteen_bits(module: nn.Module) -> None:
    """Let a module that ``suits`` compute in float32 (bfloat16 under autocast) from a weight of 16 bits."""
    if isinstance(module, nn.Embedding):
        module.register_forward_hook(lambda _, __, out: out.float())
    else:
        module.forward = lambda x: _Product.apply(x, module.weight)


def read_as_needed(module: nn.Module, read: Callable[[slice], Tensor]) -> None:
    """Let a linear hold no matrix, but ``read`` rows of it, of 16 bits, when it needs them.

    Serves forward passes in float32 only.
    """
    shape = module.get_parameter("weight").shape
    module.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
    module.forward = lambda x: _product_in_pieces(x, shape, read)


@contextlib.contextmanager
def cast_once(module: nn.Module) -> Iterator[None]:
    """A context in which linears' float32 matrices are cast to bfloat16 once, and not for each product under autocast.

    An input that several linears share is cast once too; hooks of linears that are registered within the context see
    one tensor of bfloat16. Without autocast nothing changes.
    """
    weights: dict[nn.Module, Any] = {}
    if torch.is_autocast_enabled("cpu"):
        weights = {linear: linear.weight for linear in module.modules() if type(linear) is nn.Linear}
    cast_input = _CastInputs()
    hooks = [linear.register_forward_pre_hook(cast_input) for linear in weights]
    try:
        for linear, weight in weights.items():
            if weight.dtype == torch.float32:
                linear.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for linear, weight in weights.items():
            linear.weight = weight


class _CastInputs:
    """Casts inputs to bfloat16; linears called in a row with the same float32 tensor get the same bfloat16 tensor."""

    def __init__(self) -> None:
        # The float32 tensor is only compared by identity and is large, so the reference is weak.
        self._last: tuple[weakref.ref[Tensor], Tensor] | None = None

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        if x.dtype != torch.float32:
            return args
        if self._last is None or self._last[0]() is not x:
            self._last = weakref.ref(x), x.bfloat16()
        return self._last[1], *args[1:]


class _Product(torch.autograd.Function):
    """``x W^T`` with W cast to float32 in pieces, because all of it would take the memory that its 16 bits save."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        if torch.is_autocast_enabled("cpu"):
            return nn.functional.linear(x.bfloat16(), weight.bfloat16())
        return _product_in_pieces(x, weight.shape, weight.__getitem__)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (weight,), (slope,) = ctx.saved_tensors, slopes
        if slope.dtype == torch.bfloat16:
            return (slope @ weight.bfloat16()).float(), None
        total = slope.new_zeros(*slope.shape[:-1], weight.shape[1])
        for rows in _pieces(weight.shape):
            total += slope[..., rows] @ weight[rows].float()
        return total, None


def _product_in_pieces(x: Tensor, shape: torch.Size, read: Callable[[slice], Tensor]) -> Tensor:
    """``x W^T`` in float32; ``read`` returns rows of W in 16 bits."""
    out = x.new_empty(*x.shape[:-1], shape[0])
    for rows in _pieces(shape):
        out[..., rows] = x @ read(rows).float().T
    return out


def _pieces(shape: torch.Size) -> list[slice]:
    step = max(1, _PIECE // shape[1])
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
