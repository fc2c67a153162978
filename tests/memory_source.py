"""A source over a transformers model in memory, so that tests can plant weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lieq_edge.sources.base import Array, KeyValue, Source, TensorSpec

_ROLES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
}
_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}


class MemorySource(Source):
    """``model`` under GGUF names, without llama.cpp's permutation; a token is a byte of the text."""

    architecture = "llama"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.label = "in memory"
        self.n_blocks = model.config.num_hidden_layers
        self.reads: list[str] = []
        tied = model.config.tie_word_embeddings
        self._names = {
            gguf_name(name): name for name, _ in model.named_parameters() if not (tied and name == "lm_head.weight")
        }

    @property
    def content_hash(self) -> str:
        return "0" * 64

    def tensors(self) -> list[TensorSpec]:
        return [TensorSpec(name, tuple(self.model.get_parameter(hf).shape), "F32") for name, hf in self._names.items()]

    def read(self, name: str) -> Array:
        self.reads.append(name)
        array: Array = self.model.get_parameter(self._names[name]).detach().numpy().astype(np.float32)
        return array

    def metadata(self) -> list[KeyValue]:
        return []

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.model.config.to_dict()
        return config

    def hf_name(self, name: str) -> str | None:
        return self._names[name]

    def to_hf(self, name: str, array: Array) -> Array:
        return array

    def tokenize(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        vocabulary = self.model.config.vocab_size
        return ([1] if add_bos else []) + [byte % (vocabulary - 3) + 3 for byte in text.encode()]

    @property
    def bos_id(self) -> int | None:
        return 1

    @property
    def adds_bos(self) -> bool:
        return True

    def detokenize(self, ids: list[int]) -> str:
        return "".join(chr(32 + i % 95) for i in ids)


def gguf_name(hf_name: str) -> str:
    """GGUF name of a parameter of a Llama-like model."""
    stem, _, kind = hf_name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{kind}"
    _, _, index, role = stem.split(".", 3)
    return f"blk.{index}.{_ROLES[role]}.{kind}"


def tiny_lm(family: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """A random transformers model whose attention and positions matter."""
    settings: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 103,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**settings)).float().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 2 * parameter.shape[1] ** -0.5)
                elif name.endswith("bias"):
                    parameter.normal_(0, 0.5)
                else:
                    parameter.uniform_(0.7, 1.3)
    return model.requires_grad_(False)


def random_tokens(n: int, length: int, vocabulary: int = 103, seed: int = 0) -> torch.Tensor:
    """Token ids ``(n, length)``."""
    return torch.randint(0, vocabulary, (n, length), generator=torch.Generator().manual_seed(seed))
