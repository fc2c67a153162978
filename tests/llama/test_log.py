"""What is read from llama.cpp's log."""

from __future__ import annotations

import pytest

from lieq_edge.llama import log


@pytest.mark.parametrize(
    ("line", "enabled"),
    [
        ("resolve_fused_ops: Flash Attention enabled\n", True),
        ("llama_context: Flash Attention was auto, set to enabled\n", True),
        ("sched_reserve: Flash Attention was auto, set to disabled\n", False),
        ("llama_context: flash_attn    = auto\n", None),
    ],
)
def test_flash_attention(line: str, enabled: bool | None) -> None:
    with log.captured_log() as captured:
        log._collect(2, line.encode(), None)
        assert captured.flash_attention is enabled
    with log.captured_log() as captured:
        assert captured.flash_attention is None


def test_the_first_error_is_the_reason() -> None:
    with log.captured_log() as captured:
        assert captured.reason() == "no reason given"
        log._collect(2, b"load: 5 tensors\n", None)
        log._collect(4, b"load: the cause\n", None)
        log._collect(4, b"load: failed\xff\n", None)
        assert captured.errors == ["the cause", "failed\ufffd"]
        assert captured.reason() == "the cause"
