"""Quicker matrix products: in bfloat16 where the processor has instructions for them, and in float32 by oneDNN."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ..sources.base import Source


# Rows and columns of the products that tell whether oneDNN rounds what it multiplies.
_TRIED = 256
# They are off by less than this part of themselves in float32, and by a thousand times as much in bfloat16.
_EXACT = 1e-5

_lock = threading.Lock()
# How many are within ``fast_float32``, and what the setting was before the first of them.
_within = 0
_before = "none"


def has_bfloat16() -> bool:
    """True when bfloat16 products are quicker than float32 on this processor (AVX512-BF16 or AMX)."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def takes_bfloat16(source: Source, wanted: bool | None = None) -> bool:
    """True when measurements of ``source`` take bfloat16: where it is quicker, unless ``wanted`` is False.

    Mixtures of experts stay in float32, for their routers decide by small differences.
    """
    return wanted is not False and has_bfloat16() and all(len(spec.shape) < 3 for spec in source.tensors())


@contextlib.contextmanager
def fast_products(wanted: bool | None = None) -> Iterator[None]:
    """A context in which matrix products and attention run in bfloat16; sums between them stay float32.

    Twice as quick as float32 on two cores with AVX512-BF16. An input or a gradient is then off by about 0.3 %, at
    random, far less than what rounding weights to 4 bits does to them.

    Args:
        wanted: False keeps float32; None and True use bfloat16 where ``has_bfloat16``.
    """
    in_bfloat16 = wanted is not False and has_bfloat16()
    with fast_float32(), torch.autocast("cpu", dtype=torch.bfloat16) if in_bfloat16 else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def fast_float32() -> Iterator[None]:
    """Let PyTorch leave products in float32 to oneDNN, where that makes them no less exact.

    Of PyTorch's two libraries MKL makes them otherwise, which on AMD's processors with AVX-512 is less than half as
    quick. oneDNN only gets them with the leave to round to bfloat16. Where it makes use of that leave (AMX, ARM with
    bfloat16), nothing is changed. The setting is the whole process's, all threads', until all who are within have left.
    """
    global _within, _before
    with _lock:  # it changes the setting too
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
    """True when oneDNN multiplies in float32 though it may round, by trying it; PyTorch before 2.9 has no setting.

    To be called by one thread at a time.
    """
    setting: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if setting is None or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 2, _TRIED, _TRIED, generator=generator)
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        found = left[0] @ right[0], torch.bmm(left, right), torch.addmm(left[0], left[1], right[1])
    finally:
        setting.fp32_precision = before
    products = left.double() @ right.double()
    wanted = products[0], products, left[0] + products[1]
    return all(bool(((own - true).abs() <= _EXACT * true).all()) for own, true in zip(found, wanted, strict=True))
