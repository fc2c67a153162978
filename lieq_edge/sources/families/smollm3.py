"""SmolLM3: Llama without rotary positions in every fourth block."""

from __future__ import annotations

from typing import Any, ClassVar

import gguf

from ...errors import InputError
from .base import Family
from .llama import Llama

_MOST = 10_000  # blocks that are looked at; more are refused by the weights, which are not there
_INTERVAL = 4
"""llama.cpp's ``n_no_rope_layer_step`` of this architecture, which no key changes."""


class SmolLM3(Llama):
    """llama.cpp's graph has neither biases nor sliding windows nor ``rope_freqs.weight``."""

    name = "smollm3"
    title = "SmolLM3"
    class_name = "SmolLM3ForCausalLM"
    arch = gguf.MODEL_ARCH.SMOLLM3
    reads_rope_factors = False
    rope_kinds = Family.rope_kinds
    defaults: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True, "rope_theta": 2000000.0}

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        blocks = min(config.get("num_hidden_layers") or 0, _MOST)
        rotated = config.get("no_rope_layers")
        if rotated is None:
            interval = config.get("no_rope_layer_interval") or _INTERVAL
            rotated = [(i + 1) % interval for i in range(blocks)]
        if [bool(value) for value in rotated[:blocks]] != [(i + 1) % _INTERVAL != 0 for i in range(blocks)]:
            raise InputError(
                f"{label} leaves rotary positions out of other blocks than every {_INTERVAL}th, and llama.cpp runs "
                f"{self.title} in no other way; choose another model."
            )
        if "sliding_attention" in (config.get("layer_types") or ()) or (
            config.get("use_sliding_window") and config.get("sliding_window")
        ):
            raise InputError(f"{label} uses sliding windows, which llama.cpp's {self.title} lacks; choose another.")
        if config.get("attention_bias") or config.get("mlp_bias"):
            raise InputError(f"{label} has biases, which llama.cpp's {self.title} lacks; choose another model.")
