"""Faster matrix products: in bfloat16 if the processor has instructions for them, and in float32 by oneDNN."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch

from ..sources.base import Source

# Rows and columns of the products by which rounding in oneDNN is detected.
_TRIED = 256
# Their relative error is below this in float32, and a thousand times as large in bfloat16.
_EXACT = 1e-5

_lock = threading.Lock()
# Number of active ``fast_float32`` contexts, and the setting before the first of them.
_within = 0
_before = "none"


def has_bfloat16() -> bool:
    """True if bfloat16 products are faster than float32 on this processor (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def takes_bfloat16(source: Source, wanted: bool | None = None) -> bool:
    """True if measurements of ``source`` use bfloat16: if it is faster, unless ``wanted`` is False.

    Mixtures of experts stay in float32, because their routers decide by small differences.
    """
    return wanted is not False and has_bfloat16() and all(len(spec.shape) < 3 for spec in source.tensors())


@contextlib.contextmanager
def fast_products(wanted: bool | None = None) -> Iterator[None]:
    """A context in which matrix products and attention run in bfloat16; sums between them stay float32.

    Twice as fast as float32 on two cores with AVX512-BF16. Inputs and gradients have a random error of about 0.3 %, far
    less than that from rounding weights to 4 bits.

    Args:
        wanted: False keeps float32; None and True use bfloat16 if ``has_bfloat16``.
    """
    in_bfloat16 = wanted is not False and has_bfloat16()
    with fast_float32(), torch.autocast("cpu", dtype=torch.bfloat16) if in_bfloat16 else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def fast_float32() -> Iterator[None]:
    """A context in which oneDNN computes PyTorch's float32 products, if it does so exactly.

    Otherwise MKL computes them, which on AMD processors with AVX-512 is less than half as fast. PyTorch gives them to
    oneDNN only together with the permission to round to bfloat16. Where oneDNN uses that permission (AMX, ARM with
    bfloat16), nothing is changed. The setting holds for all threads until the last of them has left the context.
    """
    global _within, _before
    with _lock:  # because the check changes the setting too
        exact = _onednn_is_exact()
    if not exact:
        yield
        return
    setting: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _lock:
        if _within == 0:
            _before = setting.fp32_precision
            setting.fp32_precision = "bf16"
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                setting.fp32_precision = _before


@functools.cache
def _onednn_is_exact() -> bool:
    """True if oneDNN multiplies in float32 though it may round, found by trying it; PyTorch before 2.9 has no setting.

    Must be called by one thread at a time.
    """
    setting: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if setting is None or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 2, _TRIED, _TRIED, generator=generator)
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        computed = left[0] @ right[0], torch.bmm(left, right), torch.addmm(left[0], left[1], right[1])
    finally:
        setting.fp32_precision = before
    products = left.double() @ right.double()
    exact = products[0], products, left[0] + products[1]
    return all(bool(((one - true).abs() <= _EXACT * true).all()) for one, true in zip(computed, exact, strict=True))
