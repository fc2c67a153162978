"""Granite: Llama with four multipliers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
from gguf import GGUFWriter, Keys

from ...errors import InputError
from ..base import Array
from ..rope import Get, shortest
from .base import Dims
from .llama import Llama

_SCALES = {
    "embedding_multiplier": Keys.LLM.EMBEDDING_SCALE,
    "residual_multiplier": Keys.LLM.RESIDUAL_SCALE,
    "attention_multiplier": Keys.Attention.SCALE,
    "logits_scaling": Keys.LLM.LOGIT_SCALE,
}


class Granite(Llama):
    """Embeddings, both residual branches and attention scores are multiplied, logits divided by a constant."""

    name = "granite"
    title = "Granite"
    class_name = "GraniteForCausalLM"
    arch = gguf.MODEL_ARCH.GRANITE

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        for name in _SCALES:
            value = config.get(name, 1.0)
            if not isinstance(value, (int, float)) or not value > 0:
                # llama.cpp takes 0 for "not given".
                raise InputError(f"The configuration of {label} has no positive {name} ({value!r}); fix config.json.")

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        super().write(config, dims, writer)
        for name, key in _SCALES.items():
            writer.add_float32(key.format(arch=writer.arch), float(config.get(name, 1.0)))

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        if get(Keys.Rope.SCALING_FINETUNED) is False:
            raise InputError(f"{label} has no rotary positions, which transformers' Granite has; choose another model.")
        config = super().config_of_keys(get, shapes, computed, label)
        for name, key in _SCALES.items():
            if value := get(key):
                config[name] = shortest(value)
        if "attention_multiplier" not in config:
            size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
            config["attention_multiplier"] = size**-0.5
        return config
