"""Mixtral: llama.cpp's llama graph with experts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..weights.safetensors_files import StoredWeights
from .base import window_note
from .experts import ExpertFamily
from .llama import Llama

_EXPERT = re.compile(r"(.+)\.block_sparse_moe\.experts\.(\d+)\.w([123])\.weight")
_PROJECTIONS = {"1": "gate", "2": "down", "3": "up"}


class Mixtral(ExpertFamily, Llama):
    """GGUF files of it say ``llama`` and are run by llama.cpp."""

    name = "mixtral"
    title = "Mixtral"
    class_name = "MixtralForCausalLM"
    reads_gguf = False
    default_eps = 1e-5
    renormalises = True
    defaults: ClassVar[dict[str, Any]] = {"num_local_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True}

    def stored(self, tensors: Mapping[str, StoredWeights]) -> dict[str, StoredWeights]:
        """Checkpoints have names of their own for the experts."""
        named = {}
        for name, weights in tensors.items():
            match = _EXPERT.fullmatch(name)
            if match:
                name = f"{match[1]}.mlp.experts.{match[2]}.{_PROJECTIONS[match[3]]}_proj.weight"
            named[name.replace(".block_sparse_moe.gate.", ".mlp.gate.")] = weights
        return super().stored(named)

    def warnings(self, config: dict[str, Any], label: str) -> Sequence[str]:
        return [*super().warnings(config, label), *window_note(config, config.get("sliding_window"), label)]
