"""Qwen3: q and k are normalised within each head."""

from __future__ import annotations

from typing import Any, ClassVar

import gguf

from ...errors import InputError
from .base import Dims, Family


class Qwen3(Family):
    """The size of a head is free, 128 by default."""

    name = "qwen3"
    title = "Qwen3"
    class_name = "Qwen3ForCausalLM"
    arch = gguf.MODEL_ARCH.QWEN3
    default_head_dim: ClassVar[int | None] = 128

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        norms = {f"self_attn.{name}_norm.weight": (dims.head_dim,) for name in ("q", "k")}
        return {**super().block_parameters(dims), **norms}

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        if config.get("attention_bias"):
            raise InputError(f"{label} has biases in its attention, which llama.cpp's Qwen3 lacks; choose another.")
