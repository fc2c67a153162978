"""Phi-3 and Phi-4: q, k and v are one matrix, gate and up another, and rope may be LongRoPE or partial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gguf
import numpy as np
from gguf import GGUFWriter, Keys

from ...errors import InputError
from ..base import Array
from ..rope import Get, Rope, longrope_of_keys
from .base import ROPE_LONG, ROPE_SHORT, Dims, Family, window_note


class Phi3(Family):
    """llama.cpp's graph takes both fused matrices as they are; it has no sliding window."""

    name = "phi3"
    title = "Phi-3"
    class_name = "Phi3ForCausalLM"
    arch = gguf.MODEL_ARCH.PHI3
    free_head_dim = False
    rope_kinds = ("default", "longrope")
    partial_rope = True
    computed_names = frozenset({ROPE_LONG, ROPE_SHORT})

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
            if config.get(name):
                raise InputError(f"{label} has {name}, which transformers' {self.title} lacks; choose another model.")
        rope, half = self.rope(config), self._rope_width(config, self.dims(config, label)) // 2
        if rope.kind == "longrope" and len(rope.parameters["long_factor"]) != half:
            raise InputError(
                f"config.json of {label} has {len(rope.parameters['long_factor'])} rope factors where its heads "
                f"need {half}; fetch it again."
            )

    def rope(self, config: dict[str, Any]) -> Rope:
        rope = super().rope(config)
        # Names of longrope in older configurations; transformers computes the same for all three.
        return Rope(rope.theta, "longrope", rope.parameters) if rope.kind in ("su", "yarn") else rope

    def _rope_width(self, config: dict[str, Any], dims: Dims) -> int:
        return int(dims.head_dim * (self.rope(config).parameters.get("partial_rotary_factor") or 1.0))

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        query, key = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
        return {
            "input_layernorm.weight": (dims.hidden,),
            "self_attn.qkv_proj.weight": (query + 2 * key, dims.hidden),
            "self_attn.o_proj.weight": (dims.hidden, query),
            "post_attention_layernorm.weight": (dims.hidden,),
            "mlp.gate_up_proj.weight": (2 * dims.intermediate, dims.hidden),
            "mlp.down_proj.weight": (dims.hidden, dims.intermediate),
        }

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        super().write(config, dims, writer)
        writer.add_rope_dimension_count(self._rope_width(config, dims))
        original = config.get("original_max_position_embeddings")
        if original and self.rope(config).kind == "default":
            writer.add_rope_scaling_orig_ctx_len(original)
        # As llama.cpp's converter: 0 stands for none.
        writer.add_sliding_window(config.get("sliding_window") or 0)

    def computed(self, config: dict[str, Any], dims: Dims) -> dict[str, Array]:
        rope = self.rope(config)
        if rope.kind != "longrope":
            return {}
        names = {ROPE_LONG: "long_factor", ROPE_SHORT: "short_factor"}
        return {name: np.array(rope.parameters[key], np.float32) for name, key in names.items()}

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        config = super().config_of_keys(get, shapes, computed, label)
        context = config["max_position_embeddings"]
        if ROPE_LONG in computed and ROPE_SHORT in computed:
            rope = longrope_of_keys(get, computed[ROPE_LONG], computed[ROPE_SHORT], context)
            config |= rope.to_config()
        config["original_max_position_embeddings"] = get(Keys.Rope.SCALING_ORIG_CTX_LEN) or context
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        width = get(Keys.Rope.DIMENSION_COUNT) or head_dim
        if width != head_dim:
            config["partial_rotary_factor"] = width / head_dim
        config["sliding_window"] = get(Keys.Attention.SLIDING_WINDOW) or None
        return config

    def add_biases(self, config: dict[str, Any], names: set[str]) -> None:
        """There are none."""

    def warnings(self, config: dict[str, Any], label: str) -> Sequence[str]:
        return [*super().warnings(config, label), *window_note(config, config.get("sliding_window"), label)]
