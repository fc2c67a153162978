"""OLMo 2: norms behind attention and MLP instead of before them, and over the whole of q and of k."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
from gguf import Keys

from ...errors import InputError
from ..base import Array
from ..rope import Get
from .base import Dims, Family


class Olmo2(Family):
    """llama.cpp's graph wants a head besides the embedding, and has no biases."""

    name = "olmo2"
    title = "OLMo 2"
    class_name = "Olmo2ForCausalLM"
    arch = gguf.MODEL_ARCH.OLMO2
    free_head_dim = False

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        if config.get("attention_bias"):
            raise InputError(f"{label} has biases in its attention, which llama.cpp's OLMo 2 lacks; choose another.")
        if config.get("tie_word_embeddings"):
            raise InputError(
                f"{label} uses its token embedding as head, which llama.cpp's OLMo 2 does not; choose another model."
            )

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        shapes = super().block_parameters(dims)
        del shapes["input_layernorm.weight"]
        return {
            **shapes,
            "post_feedforward_layernorm.weight": (dims.hidden,),
            "self_attn.q_norm.weight": (dims.heads * dims.head_dim,),
            "self_attn.k_norm.weight": (dims.kv_heads * dims.head_dim,),
        }

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        if get(Keys.Attention.SLIDING_WINDOW):
            raise InputError(f"{label} has sliding windows, as OLMo 3 has; choose another model.")
        return super().config_of_keys(get, shapes, computed, label)
