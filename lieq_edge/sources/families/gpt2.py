"""GPT-2: learned positions, q, k and v in one matrix, LayerNorm with biases, a plain MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gguf
from gguf import GGUFWriter, Keys

from ...errors import InputError
from ...gguf.names import EMBEDDING, HEAD, block_of
from ..base import Array
from ..rope import Get, shortest
from ..weights.safetensors_files import StoredWeights
from .base import Dims, Family

_PREFIX = "transformer."
_OTHERS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
"""GPT-2's names of settings, and the names in later models."""


class Gpt2(Family):
    """transformers keeps the matrices of a block as ``(columns, rows)`` (``Conv1D``)."""

    name = "gpt2"
    title = "GPT-2"
    class_name = "GPT2LMHeadModel"
    arch = gguf.MODEL_ARCH.GPT2
    activations = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
    free_head_dim = False
    defaults: ClassVar[dict[str, Any]] = {"tie_word_embeddings": True}
    ignored_suffixes = (".attn.bias",)

    def dims(self, config: dict[str, Any], label: str) -> Dims:
        known = dict(config)
        for name, usual in _OTHERS.items():
            known.setdefault(usual, config.get(name))
        known["intermediate_size"] = config.get("n_inner") or 4 * (known["hidden_size"] or 0)
        return super().dims(known, label)

    def activation(self, config: dict[str, Any]) -> str:
        return str(config.get("activation_function") or self.activations[0])

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        for name, usual in {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        }.items():
            if bool(config.get(name, usual)) is not usual:
                raise InputError(
                    f"{label} has {name} = {config[name]}, which llama.cpp's GPT-2 does not compute; choose another."
                )

    def stored(self, tensors: Mapping[str, StoredWeights]) -> dict[str, StoredWeights]:
        """The first checkpoints were saved without the prefix."""
        return {
            name if name.startswith((_PREFIX, "lm_head.")) else _PREFIX + name: value for name, value in tensors.items()
        }

    def parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (dims.vocab, dims.hidden),
            "transformer.wpe.weight": (dims.context, dims.hidden),
        }
        for i in range(dims.blocks):
            for name, shape in self.block_parameters(dims).items():
                shapes[f"transformer.h.{i}.{name}"] = shape
        shapes["transformer.ln_f.weight"] = shapes["transformer.ln_f.bias"] = (dims.hidden,)
        if not dims.tied:
            shapes["lm_head.weight"] = (dims.vocab, dims.hidden)
        return shapes

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        linears = {
            "attn.c_attn": (dims.hidden, 3 * dims.hidden),
            "attn.c_proj": (dims.hidden, dims.hidden),
            "mlp.c_fc": (dims.hidden, dims.intermediate),
            "mlp.c_proj": (dims.intermediate, dims.hidden),
        }
        shapes: dict[str, tuple[int, ...]] = {}
        for norm in ("ln_1", "ln_2"):
            shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (dims.hidden,)
        for name, shape in linears.items():
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[1:]
        return shapes

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        writer.add_block_count(dims.blocks)
        writer.add_context_length(dims.context)
        writer.add_embedding_length(dims.hidden)
        writer.add_feed_forward_length(dims.intermediate)
        writer.add_head_count(dims.heads)
        writer.add_layer_norm_eps(float(config.get("layer_norm_epsilon", 1e-5)))

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        need = self.needed(get, shapes, label)
        return {
            "architectures": [self.class_name],
            "model_type": self.name,
            "vocab_size": shapes[EMBEDDING][0],
            "n_embd": need(Keys.LLM.EMBEDDING_LENGTH),
            "n_inner": need(Keys.LLM.FEED_FORWARD_LENGTH),
            "n_layer": need(Keys.LLM.BLOCK_COUNT),
            "n_head": need(Keys.Attention.HEAD_COUNT),
            "n_positions": need(Keys.LLM.CONTEXT_LENGTH),
            "activation_function": self.activations[0],
            "layer_norm_epsilon": shortest(need(Keys.Attention.LAYERNORM_EPS)),
            "tie_word_embeddings": HEAD not in shapes,
            "bos_token_id": get(Keys.Tokenizer.BOS_ID),
            "eos_token_id": get(Keys.Tokenizer.EOS_ID),
            "pad_token_id": None,
        }

    def gguf_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[::-1] if block_of(name) is not None else shape

    def to_gguf(self, name: str, array: Array, dims: Dims) -> Array:
        return array.T if block_of(name) is not None else array

    def to_hf(self, name: str, array: Array, dims: Dims) -> Array:
        return self.to_gguf(name, array, dims)
