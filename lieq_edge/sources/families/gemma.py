"""Gemma, Gemma 2 and the text part of Gemma 3: norms with an offset of one, scaled embeddings, GELU."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gguf
import numpy as np
from gguf import GGUFWriter, Keys

from ...errors import InputError
from ..base import Array
from ..rope import Get, Rope, rope_of_config, shortest
from .base import Dims, Family

_LOCAL_BASE = "{arch}.rope.freq_base_swa"


class Gemma(Family):
    """Gemma 1. llama.cpp multiplies the embeddings by the root of the hidden size itself."""

    name = "gemma"
    title = "Gemma"
    class_name = "GemmaForCausalLM"
    arch = gguf.MODEL_ARCH.GEMMA
    activations = ("gelu_pytorch_tanh",)
    norm_offset = 1.0
    default_head_dim = 256
    defaults: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True}
    rope_kinds: ClassVar[tuple[str, ...]] = ("default",)

    def activation(self, config: dict[str, Any]) -> str:
        return str(config.get("hidden_activation") or config.get("hidden_act") or self.activations[0])

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        if config.get("attention_bias"):
            raise InputError(
                f"{label} has biases in its attention, which llama.cpp's {self.title} lacks; choose another."
            )
        if config.get("use_bidirectional_attention"):
            raise InputError(f"{label} attends to later tokens too, so it writes no text; choose another model.")
        if not config.get("tie_word_embeddings", True):
            self.check_head(label)

    def check_head(self, label: str) -> None:
        """Refuse a head of its own where the graph has none."""
        raise InputError(
            f"{label} has an output head besides its embedding, which llama.cpp's {self.title} lacks; choose another."
        )

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        config = super().config_of_keys(get, shapes, computed, label)
        config["hidden_activation"] = self.activations[0]
        return config


@dataclass(frozen=True)
class GemmaDims(Dims):
    """Sizes, and the factor of queries with which llama.cpp's scale of the attention gives the model's."""

    query_scale: float


class _Alternating(Gemma):
    """Norms after attention and MLP too, and some blocks with a sliding window.

    Attributes:
        pattern: interval of the blocks without a window, by default.
        big: number of blocks of the model whose attention logits llama.cpp divides by the root of hidden / heads; by
            the root of a head's size for others.
        query_tensor: last tensor that is multiplied into queries.
    """

    pattern: ClassVar[int]
    big: ClassVar[int]
    query_tensor: ClassVar[str]
    default_window: ClassVar[int | None] = None
    _caps: ClassVar[dict[str, float]] = {}
    gguf_stems: ClassVar[dict[str, str]] = {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    }

    def dims(self, config: dict[str, Any], label: str) -> Dims:
        dims = super().dims(config, label)
        scale = math.sqrt(self._scalar(dims) / (config.get("query_pre_attn_scalar") or 256))
        return GemmaDims(**dataclasses.asdict(dims), query_scale=scale)

    def _scalar(self, dims: Dims) -> int:
        return dims.hidden // dims.heads if dims.blocks == self.big else dims.head_dim

    def to_gguf(self, name: str, array: Array, dims: Dims) -> Array:
        return self._scaled(name, super().to_gguf(name, array, dims), dims, 1)

    def to_hf(self, name: str, array: Array, dims: Dims) -> Array:
        return super().to_hf(name, self._scaled(name, array, dims, -1), dims)

    def _scaled(self, name: str, array: Array, dims: Dims, power: int) -> Array:
        assert isinstance(dims, GemmaDims)
        if dims.query_scale == 1 or not name.endswith(self.query_tensor):
            return array
        return array * np.float32(dims.query_scale**power)

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        norms = {f"{place}_feedforward_layernorm.weight": (dims.hidden,) for place in ("pre", "post")}
        return {**super().block_parameters(dims), **norms}

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        super().write(config, dims, writer)
        if window := config.get("sliding_window", 4096):
            writer.add_sliding_window(window)
        if self._sliding(config, dims.blocks) != self._default_sliding(self.pattern, dims.blocks):
            writer.add_sliding_window_pattern(self._sliding(config, dims.blocks))
        if cap := config.get("final_logit_softcapping", self._caps.get("final_logit_softcapping")):
            writer.add_final_logit_softcapping(cap)

    def _sliding(self, config: dict[str, Any], blocks: int) -> list[bool]:
        """Which blocks have a window."""
        if config.get("sliding_window", 4096) is None:
            return [False] * blocks
        if kinds := config.get("layer_types"):
            return [kind == "sliding_attention" for kind in kinds]
        return self._default_sliding(config.get("sliding_window_pattern") or self.pattern, blocks)

    @staticmethod
    def _default_sliding(pattern: int, blocks: int) -> list[bool]:
        return [(i + 1) % pattern != 0 for i in range(blocks)]

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        config = super().config_of_keys(get, shapes, computed, label)
        blocks = config["num_hidden_layers"]
        sliding = get(Keys.Attention.SLIDING_WINDOW_PATTERN)
        if not isinstance(sliding, list):
            sliding = self._default_sliding(sliding or self.pattern, blocks)
        config["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in sliding]
        config["sliding_window"] = get(Keys.Attention.SLIDING_WINDOW) or self.default_window
        if config["sliding_window"] is None:
            config["layer_types"] = ["full_attention"] * blocks
        config["query_pre_attn_scalar"] = self._scalar(super().dims(config, label))
        for name, key in (
            ("attn_logit_softcapping", Keys.LLM.ATTN_LOGIT_SOFTCAPPING),
            ("final_logit_softcapping", Keys.LLM.FINAL_LOGIT_SOFTCAPPING),
        ):
            value = get(key) or self._caps.get(name)
            config[name] = None if value is None else shortest(value)
        return config


class Gemma2(_Alternating):
    """Both attention and output logits are capped by a tanh."""

    name = "gemma2"
    title = "Gemma 2"
    class_name = "Gemma2ForCausalLM"
    arch = gguf.MODEL_ARCH.GEMMA2
    pattern = 2
    big = 46
    query_tensor = "attn_q.weight"
    default_window = 4096
    _caps: ClassVar[dict[str, float]] = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        for name, default in self._caps.items():
            if not config.get(name, default):
                raise InputError(f"{label} has no {name}, which llama.cpp's Gemma 2 cannot do without; choose another.")

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        super().write(config, dims, writer)
        writer.add_attn_logit_softcapping(config.get("attn_logit_softcapping", self._caps["attn_logit_softcapping"]))


class Gemma3(_Alternating):
    """q and k are normalised within each head; blocks with a window have a rope base of their own."""

    name = "gemma3_text"
    title = "Gemma 3"
    class_name = "Gemma3ForCausalLM"
    arch = gguf.MODEL_ARCH.GEMMA3
    pattern = 6
    big = 62
    query_tensor = "attn_q_norm.weight"
    rope_kinds = ("default", "linear")

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        if config.get("attn_logit_softcapping"):
            raise InputError(f"{label} caps its attention logits, which llama.cpp's Gemma 3 does not; choose another.")
        local = self._local_rope(config)
        if local.kind != "default":
            raise InputError(
                f"{label} scales rope within its windows, which llama.cpp's Gemma 3 does not; choose another."
            )

    def check_head(self, label: str) -> None:
        """The graph reads ``output.weight``."""

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        norms = {f"self_attn.{name}_norm.weight": (dims.head_dim,) for name in ("q", "k")}
        return {**super().block_parameters(dims), **norms}

    def rope(self, config: dict[str, Any]) -> Rope:
        """That of the blocks without a window."""
        both = config.get("rope_parameters") or {}
        if "full_attention" in both:
            return rope_of_config({"rope_theta": 1e6, "rope_parameters": both["full_attention"]})
        return rope_of_config({"rope_theta": 1e6, **{k: v for k, v in config.items() if v is not None}})

    def _local_rope(self, config: dict[str, Any]) -> Rope:
        both = config.get("rope_parameters") or {}
        local = {"rope_theta": config.get("rope_local_base_freq") or 10000.0}
        return rope_of_config({**local, "rope_parameters": both.get("sliding_attention")})

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        super().write(config, dims, writer)
        # llama.cpp takes 10000 where a file says nothing, as all released models have.
        if (base := self._local_rope(config).theta) != 10000.0:
            writer.add_float32(_LOCAL_BASE.format(arch=self.architecture), base)

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        config = super().config_of_keys(get, shapes, computed, label)
        config["rope_local_base_freq"] = shortest(get(_LOCAL_BASE) or 10000.0)
        return config
