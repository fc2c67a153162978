"""Tiny models of every family, with the settings that are special to it, for the tests that prove a family.

A new family needs entries here, and one in ``tiny.SETTINGS`` where transformers' defaults do not suit a tiny model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tiny import LLAMA3_ROPE

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONG_ROPE = {
    "type": "longrope",
    "long_factor": [1.5, 2.0, 3.25, 4.0, 6.5, 9.0],
    "short_factor": [1.0, 1.05, 1.1, 1.25, 1.5, 2.0],
}
PHI4_MINI = {"partial_rotary_factor": 0.75, "original_max_position_embeddings": 512}
OTHER_WINDOWS = ["full_attention", "sliding_attention", "sliding_attention"]
BIASES = {
    f"model.layers.0.{name}.bias": np.random.default_rng(1).standard_normal(rows).astype(np.float32)
    for name, rows in {
        "self_attn.q_proj": 64,
        "self_attn.k_proj": 32,
        "self_attn.v_proj": 32,
        "self_attn.o_proj": 64,
        "mlp.gate_proj": 128,
        "mlp.up_proj": 128,
        "mlp.down_proj": 64,
    }.items()
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama untied, bf16, shards": ("llama", {"tied": False, "dtype": "bfloat16", "shards": 3}),
    "llama sentencepiece, f16": ("llama", {"tokenizer": "sentencepiece", "dtype": "float16"}),
    "llama 288 wide": ("llama", {"hidden": 288, "heads": (9, 3)}),
    "llama without grouped heads": ("llama", {"heads": (4, 4)}),
    "llama free head size": ("llama", {"head_dim": 32}),
    "llama3 rope": ("llama", {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0, "head_dim": 32}),
    "llama linear rope": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama yarn": ("llama", {"rope_scaling": YARN}),
    "llama yarn with its own limits": ("llama", {"rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0}}),
    "llama biases": ("llama", {"blocks": 1, "config": {"attention_bias": True, "mlp_bias": True}, "tensors": BIASES}),
    "qwen2": ("qwen2", {}),
    "qwen2 untied, 288 wide": ("qwen2", {"tied": False, "hidden": 288, "heads": (9, 3)}),
    "qwen2 yarn with its own attention factor": ("qwen2", {"rope_scaling": {**YARN, "attention_factor": 1.5}}),
    "qwen3": ("qwen3", {}),
    "qwen3 untied, free head size": ("qwen3", {"tied": False, "head_dim": 32}),
    "mistral": ("mistral", {"tied": False, "tokenizer": "sentencepiece"}),
    "mistral within its window": ("mistral", {"config": {"sliding_window": 400}}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {}),
    "gemma2 other query scale": ("gemma2", {"config": {"query_pre_attn_scalar": 24}}),
    "gemma2 other pattern, bf16": (
        "gemma2",
        {"blocks": 3, "dtype": "bfloat16", "config": {"layer_types": OTHER_WINDOWS}},
    ),
    "gemma3": ("gemma3_text", {"blocks": 7, "hidden": 32, "intermediate": 64, "heads": (2, 1), "head_dim": 16}),
    "gemma3 4b": (
        "gemma3_text",
        {
            "head_dim": 32,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "config": {"sliding_window_pattern": 2, "rope_local_base_freq": 5000.0},
        },
    ),
    "gemma3 untied, capped, other query scale": (
        "gemma3_text",
        {"tied": False, "config": {"final_logit_softcapping": 4.0, "query_pre_attn_scalar": 24}},
    ),
    "gemma3 heads of 256": ("gemma3_text", {"head_dim": 256, "heads": (1, 1), "intermediate": 64}),
    "phi3": ("phi3", {"tied": False, "tokenizer": "sentencepiece"}),
    "phi3 short rope factors": ("phi3", {"context": 1024, "rope_scaling": LONG_ROPE, "config": PHI4_MINI}),
    "phi3 long rope factors": (
        "phi3",
        {"context": 1024, "rope_scaling": LONG_ROPE, "config": {**PHI4_MINI, "original_max_position_embeddings": 128}},
    ),
}

ONE_EACH = ("llama3 rope", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "phi3", "phi3 long rope factors")
"""Of ``CASES``: enough for tests that do not depend on details of the export."""
