"""StableLM: LayerNorm with biases, rotary positions in a part of each head; parallel branches in the largest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import gguf
from gguf import GGUFWriter, Keys

from ...errors import InputError
from ...gguf.names import block_tensor
from ..base import Array
from ..rope import Get, rope_of_config
from ..weights.safetensors_files import StackedWeights, StoredWeights
from .base import Dims, Family

_PARTIAL = "partial_rotary_factor"
_HEAD_NORM = re.compile(r"(.+\.[qk]_layernorm)\.norms\.(\d+)\.weight")


@dataclasses.dataclass(frozen=True)
class StableLmDims(Dims):
    """Sizes of a StableLM; ``attention_bias`` means biases of q, k and v.

    Attributes:
        parallel: attention and MLP read the same norm, so that a block has one only.
        head_norms: q and k are normalised, with weights for each head.
    """

    parallel: bool = False
    head_norms: bool = False


class StableLm(Family):
    """llama.cpp's graph wants a head besides the embedding."""

    name = "stablelm"
    title = "StableLM"
    class_name = "StableLmForCausalLM"
    arch = gguf.MODEL_ARCH.STABLELM
    free_head_dim = False
    defaults: ClassVar[dict[str, Any]] = {_PARTIAL: 0.25}
    eps_name = "layer_norm_eps"
    eps_key = Keys.Attention.LAYERNORM_EPS
    default_eps = 1e-5

    def dims(self, config: dict[str, Any], label: str) -> Dims:
        dims = dataclasses.asdict(super().dims(config, label))
        dims["attention_bias"] = bool(config.get("use_qkv_bias"))
        return StableLmDims(
            **dims,
            parallel=bool(config.get("use_parallel_residual")),
            head_norms=bool(config.get("qk_layernorm")),
        )

    def check(self, config: dict[str, Any], label: str) -> None:
        whole = {key: value for key, value in config.items() if key != _PARTIAL}
        for key in ("rope_parameters", "rope_scaling"):
            if config.get(key):
                whole[key] = {name: value for name, value in config[key].items() if name != _PARTIAL}
        super().check(whole, label)
        if config.get("tie_word_embeddings"):
            raise InputError(
                f"{label} uses its token embedding as head, which llama.cpp's StableLM does not; choose another model."
            )

    def stored(self, tensors: Mapping[str, StoredWeights]) -> dict[str, StoredWeights]:
        """The norms of the heads come one by one; llama.cpp holds them together."""
        others: dict[str, StoredWeights] = {}
        norms: dict[str, dict[int, StoredWeights]] = {}
        for name, weights in tensors.items():
            if match := _HEAD_NORM.fullmatch(name):
                norms.setdefault(f"{match[1]}.weight", {})[int(match[2])] = weights
            else:
                others[name] = weights
        stacked = {name: StackedWeights.of([parts[i] for i in sorted(parts)]) for name, parts in norms.items()}
        return others | stacked

    def parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for name, shape in super().parameters(dims).items():
            shapes[name] = shape
            if name == "model.norm.weight":
                shapes["model.norm.bias"] = shape
        return shapes

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        assert isinstance(dims, StableLmDims)
        shapes = {}
        for name, shape in super().block_parameters(dims).items():
            if name.startswith("post_attention_layernorm") and dims.parallel:
                continue
            shapes[name] = shape
            if name.endswith("layernorm.weight"):
                shapes[name.replace("weight", "bias")] = shape
        if dims.head_norms:
            shapes["self_attn.q_layernorm.weight"] = (dims.heads, dims.head_dim)
            shapes["self_attn.k_layernorm.weight"] = (dims.kv_heads, dims.head_dim)
        return shapes

    def has_bias(self, projection: str, dims: Dims) -> bool:
        return projection != "o" and dims.attention_bias

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        super().write(config, dims, writer)
        writer.add_rope_dimension_count(int(dims.head_dim * rope_of_config(config).parameters[_PARTIAL]))
        writer.add_parallel_residual(bool(config.get("use_parallel_residual")))

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        config = super().config_of_keys(get, shapes, computed, label)
        size = config["hidden_size"] // config["num_attention_heads"]
        rotated = get(Keys.Rope.DIMENSION_COUNT) or size
        factor = rotated / size
        # transformers cuts the product off, which floating point may have brought just below a whole number.
        config[_PARTIAL] = factor if int(size * factor) == rotated else (rotated + 0.5) / size
        return config

    def add_biases(self, config: dict[str, Any], names: set[str]) -> None:
        config["use_qkv_bias"] = block_tensor(0, "attn_q", "bias") in names
        config["use_parallel_residual"] = block_tensor(0, "ffn_norm") not in names
        config["qk_layernorm"] = block_tensor(0, "attn_q_norm") in names
