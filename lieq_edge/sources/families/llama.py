"""Llama: Llama 2 and 3, SmolLM2, TinyLlama and others of the same graph."""

from __future__ import annotations

from typing import Any

import gguf
from gguf import GGUFWriter

from ...gguf.names import TensorName, block_tensor
from ..base import Array
from .base import Dims, Family


class Llama(Family):
    """transformers rotates the two halves of a head against each other, llama.cpp's llama graph even and odd channels:
    the rows of q and k are permuted accordingly."""

    name = "llama"
    title = "Llama"
    class_name = "LlamaForCausalLM"
    arch = gguf.MODEL_ARCH.LLAMA
    reads_rope_factors = True
    rope_kinds = (*Family.rope_kinds, "llama3")

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        super().write(config, dims, writer)
        writer.add_vocab_size(dims.vocab)
        writer.add_rope_dimension_count(dims.head_dim)

    def add_biases(self, config: dict[str, Any], names: set[str]) -> None:
        super().add_biases(config, names)
        config["mlp_bias"] = block_tensor(0, "ffn_up", "bias") in names

    def to_gguf(self, name: str, array: Array, dims: Dims) -> Array:
        heads = _rotated_heads(name, dims)
        if heads == 0:
            return array
        halves = array.reshape(heads, 2, dims.head_dim // 2, -1)
        return halves.swapaxes(1, 2).reshape(array.shape)

    def to_hf(self, name: str, array: Array, dims: Dims) -> Array:
        heads = _rotated_heads(name, dims)
        if heads == 0:
            return array
        pairs = array.reshape(heads, dims.head_dim // 2, 2, -1)
        return pairs.swapaxes(1, 2).reshape(array.shape)


def _rotated_heads(name: str, dims: Dims) -> int:
    """Number of heads in a tensor whose rows are rotated by position; 0 for other tensors."""
    return {"attn_q": dims.heads, "attn_k": dims.kv_heads}.get(TensorName.parse(name).role, 0)
