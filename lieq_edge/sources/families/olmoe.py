"""OLMoE: a mixture of experts in every block, norms over the whole of q and of k."""

from __future__ import annotations

from typing import Any, ClassVar

import gguf

from ...errors import InputError
from .base import Dims
from .experts import ExpertFamily


class Olmoe(ExpertFamily):
    """llama.cpp's graph wants a head besides the embedding and as many heads of k as of q, and clips nothing."""

    name = "olmoe"
    title = "OLMoE"
    class_name = "OlmoeForCausalLM"
    arch = gguf.MODEL_ARCH.OLMOE
    free_head_dim = False
    default_eps = 1e-5
    renormalises = False
    defaults: ClassVar[dict[str, Any]] = {"num_experts": 64, "num_experts_per_tok": 8}

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        for name in ("attention_bias", "clip_qkv", "tie_word_embeddings"):
            if config.get(name):
                raise InputError(
                    f"{label} has {name} = {config[name]}, which llama.cpp's OLMoE does not compute; choose another."
                )
        if config.get("num_key_value_heads") not in (None, config.get("num_attention_heads")):
            raise InputError(f"{label} shares key-value heads, which llama.cpp's OLMoE does not; choose another model.")

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        norms = {f"self_attn.{name}_norm.weight": (dims.hidden,) for name in ("q", "k")}
        return {**super().block_parameters(dims), **norms}
