"""Float32 products by oneDNN."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from lieq_edge.blockwise import precision

setting: Any = getattr(torch.backends.mkldnn, "matmul", None)
needs_setting = pytest.mark.skipif(setting is None, reason="this PyTorch has no such setting")


def test_products_stay_as_exact_as_float32() -> None:
    left, right = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
    with precision.fast_float32():
        computed = left @ right
    wanted = left.double() @ right.double()
    assert (computed - wanted).norm() / wanted.norm() < 1e-6


@needs_setting
def test_the_setting_is_restored_when_the_last_thread_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_onednn_is_exact", lambda: True)
    before = setting.fp32_precision
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with precision.fast_float32():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with precision.fast_float32():
        thread.start()
        assert entered.wait(10)
    # The other thread is still in its context.
    assert setting.fp32_precision == "bf16"
    leave.set()
    thread.join()
    assert setting.fp32_precision == before


@needs_setting
def test_nothing_changes_if_onednn_would_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_onednn_is_exact", lambda: False)
    before = setting.fp32_precision
    with precision.fast_float32():
        assert setting.fp32_precision == before


@needs_setting
def test_rounding_to_bfloat16_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: multiply(a.bfloat16().float(), b.bfloat16().float()))
    assert not precision._onednn_is_exact.__wrapped__()
