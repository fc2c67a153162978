"""Tiny random GGUF files of architectures that are run through llama.cpp only, written tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType
from tiny import cached_model

from lieq_edge.gguf.container import KeyValue, write_container
from lieq_edge.gguf.types import TYPES
from lieq_edge.llama.encoders import encode
from lieq_edge.sources import open_source

ARCHITECTURES = ("internlm2", "starcoder", "llama")
"""Separate projections; a fused one with biases and learned positions; a mixture of experts (Mixtral's)."""

HIDDEN, INNER, HEADS, KV_HEADS, BLOCKS, EXPERTS, CONTEXT, VOCAB = 256, 256, 4, 2, 3, 4, 256, 512

_KINDS = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}


def key_value(key: str, value: Any) -> KeyValue:
    """A key-value of the type that the value has."""
    if isinstance(value, list):
        return KeyValue(key, value, int(GGUFValueType.ARRAY), int(_KINDS[type(value[0])]))
    return KeyValue(key, value, int(_KINDS[type(value)]))


def foreign_model(path: Path, architecture: str, *, type_name: str = "F16", seed: int = 0) -> Path:
    """Write a model with the tokenizer of the tiny llama; matrices in ``type_name``, positions in F16."""
    keys: dict[str, Any] = {
        "context_length": CONTEXT,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "block_count": BLOCKS,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
    }
    norm = "attention.layer_norm_epsilon" if architecture == "starcoder" else "attention.layer_norm_rms_epsilon"
    keys[norm] = 1e-5
    if architecture == "llama":
        keys |= {"expert_count": EXPERTS, "expert_used_count": 2}
    return write_model(path, architecture, keys, _shapes(architecture, VOCAB), type_name=type_name, seed=seed)


def write_model(
    path: Path,
    architecture: str,
    keys: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    *,
    type_name: str = "F16",
    seed: int = 0,
) -> Path:
    """Write a model of these keys (without the architecture) and tensors, with the tokenizer of the tiny llama."""
    tokenizer = [kv for kv in open_source(str(cached_model("llama"))).metadata() if kv.key.startswith("tokenizer.")]
    metadata = [
        key_value("general.architecture", architecture),
        key_value("general.name", f"Tiny {architecture}"),
        *(key_value(f"{architecture}.{key}", value) for key, value in keys.items()),
        key_value("custom.remark", "carried over"),
        *tokenizer,
    ]
    rng = np.random.default_rng(seed)
    entries, data = [], []
    for name, shape in shapes.items():
        kind = "F32" if len(shape) == 1 else "F16" if name == "position_embd.weight" else type_name
        if name.endswith(("ffn_gate_inp.weight", "ssm_conv1d.weight", "ssm_a")):
            kind = "F32"
        array = rng.standard_normal(shape, dtype=np.float32) * (0.1 if len(shape) == 1 else 1.5 / np.sqrt(shape[-1]))
        if "norm.weight" in name:
            array += 1
        if name.endswith("ssm_a"):
            array = -np.abs(array)
        entries.append((name, shape, TYPES[kind]))
        data.append(encode(array.reshape(-1, shape[-1]).astype(np.float32), kind))
    write_container(path, architecture, metadata, entries, data)
    return path


def _shapes(architecture: str, vocab: int) -> dict[str, tuple[int, ...]]:
    width = HIDDEN // HEADS * KV_HEADS
    biased = architecture == "starcoder"
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, HIDDEN)}
    if biased:
        found["position_embd.weight"] = (CONTEXT, HIDDEN)

    def add(name: str, *shape: int) -> None:
        found[f"{name}.weight"] = shape
        if biased:
            found[f"{name}.bias"] = shape[:1]

    for index in range(BLOCKS):
        block = f"blk.{index}."
        add(f"{block}attn_norm", HIDDEN)
        if biased:
            add(f"{block}attn_qkv", HIDDEN + 2 * width, HIDDEN)
        else:
            add(f"{block}attn_q", HIDDEN, HIDDEN)
            add(f"{block}attn_k", width, HIDDEN)
            add(f"{block}attn_v", width, HIDDEN)
        add(f"{block}attn_output", HIDDEN, HIDDEN)
        add(f"{block}ffn_norm", HIDDEN)
        if architecture == "llama":
            add(f"{block}ffn_gate_inp", EXPERTS, HIDDEN)
            add(f"{block}ffn_gate_exps", EXPERTS, INNER, HIDDEN)
            add(f"{block}ffn_down_exps", EXPERTS, HIDDEN, INNER)
            add(f"{block}ffn_up_exps", EXPERTS, INNER, HIDDEN)
            continue
        if not biased:
            add(f"{block}ffn_gate", INNER, HIDDEN)
        add(f"{block}ffn_up", INNER, HIDDEN)
        add(f"{block}ffn_down", HIDDEN, INNER)
    add("output_norm", HIDDEN)
    if architecture != "starcoder":
        add("output", vocab, HIDDEN)
    return found
