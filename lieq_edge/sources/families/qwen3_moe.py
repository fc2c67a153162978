"""Qwen3 with a mixture of experts in every block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gguf
from gguf import GGUFWriter, Keys

from ...errors import InputError
from ..base import Array
from ..rope import Get
from .base import Dims
from .experts import ExpertDims, ExpertFamily
from .qwen3 import Qwen3


class Qwen3Moe(ExpertFamily, Qwen3):
    """llama.cpp's graph has no blocks without experts."""

    name = "qwen3_moe"
    title = "Qwen3-MoE"
    class_name = "Qwen3MoeForCausalLM"
    arch = gguf.MODEL_ARCH.QWEN3MOE
    default_head_dim = None
    renormalises = True
    size_name = "moe_intermediate_size"
    defaults: ClassVar[dict[str, Any]] = {"num_experts_per_tok": 8, "moe_intermediate_size": 768}

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
            raise InputError(
                f"{label} has blocks without experts, which llama.cpp's {self.title} lacks; choose another."
            )

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        assert isinstance(dims, ExpertDims)
        super().write(config, dims, writer)
        writer.add_expert_feed_forward_length(dims.expert_size)

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        config = super().config_of_keys(get, shapes, computed, label)
        # Where the key is missing llama.cpp takes this quotient.
        shared = config["intermediate_size"] // config["num_experts_per_tok"]
        config["moe_intermediate_size"] = get(Keys.LLM.EXPERT_FEED_FORWARD_LENGTH) or shared
        return config
