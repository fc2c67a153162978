"""Qwen2 and Qwen2.5: biases on q, k and v."""

from __future__ import annotations

from typing import Any

import gguf

from .base import Dims, Family


class Qwen2(Family):
    """llama.cpp's graph takes heads of hidden / heads only."""

    name = "qwen2"
    title = "Qwen2"
    class_name = "Qwen2ForCausalLM"
    arch = gguf.MODEL_ARCH.QWEN2
    free_head_dim = False

    def has_bias(self, projection: str, dims: Dims) -> bool:
        return projection != "o"

    def add_biases(self, config: dict[str, Any], names: set[str]) -> None:
        """transformers has no setting for them: they are always there."""
