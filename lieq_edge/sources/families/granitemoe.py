"""Granite-MoE: Granite with a mixture of experts in every block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gguf

from ..base import Array
from ..rope import Get
from ..weights.safetensors_files import StoredWeights
from .base import Dims
from .experts import ExpertFamily
from .granite import Granite

_MIXTURE = "block_sparse_moe."
_FUSED = ".input_linear.weight"


@dataclass(frozen=True)
class _Half(StoredWeights):
    """One half of the rows of each expert's matrix, which a checkpoint holds together."""

    whole: StoredWeights
    second: bool

    @classmethod
    def of(cls, whole: StoredWeights, *, second: bool) -> _Half:
        """The first half of ``whole`` ``(experts, rows, columns)``, or the second one."""
        experts, rows, columns = whole.shape
        return cls(whole.path, whole.dtype, (experts, rows // 2, columns), whole.offset, whole, second)

    def read(self) -> Array:
        rows = self.shape[1]
        return self.whole.read()[:, rows:] if self.second else self.whole.read()[:, :rows]


class GraniteMoe(ExpertFamily, Granite):
    """llama.cpp's graph takes a softmax over the chosen experts, as transformers does."""

    name = "granitemoe"
    title = "Granite-MoE"
    class_name = "GraniteMoeForCausalLM"
    arch = gguf.MODEL_ARCH.GRANITE_MOE
    renormalises = True
    defaults: ClassVar[dict[str, Any]] = {"num_local_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True}
    gguf_stems: ClassVar[dict[str, str]] = {
        f"{_MIXTURE}router": "ffn_gate_inp",
        f"{_MIXTURE}experts.gate_proj": "ffn_gate_exps",
        f"{_MIXTURE}experts.up_proj": "ffn_up_exps",
        f"{_MIXTURE}experts.down_proj": "ffn_down_exps",
    }

    def stored(self, tensors: Mapping[str, StoredWeights]) -> dict[str, StoredWeights]:
        """Checkpoints hold gates and up-projections of all experts together."""
        found: dict[str, StoredWeights] = {}
        for name, weights in super().stored(tensors).items():
            if name.endswith(_FUSED) and len(weights.shape) == 3:
                stem = name.removesuffix(_FUSED)
                found[f"{stem}.experts.gate_proj.weight"] = _Half.of(weights, second=False)
                found[f"{stem}.experts.up_proj.weight"] = _Half.of(weights, second=True)
            else:
                name = name.replace(".router.layer.", ".router.")
                found[name.replace(".output_linear.", ".experts.down_proj.")] = weights
        return found

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        shapes = super().block_parameters(dims)
        return {
            name.replace("mlp.experts.", f"{_MIXTURE}experts.").replace("mlp.gate.", f"{_MIXTURE}router."): shape
            for name, shape in shapes.items()
        }

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        config = super().config_of_keys(get, shapes, computed, label)
        del config["mlp_bias"]
        config["num_local_experts"] = config.pop("num_experts")
        return config
