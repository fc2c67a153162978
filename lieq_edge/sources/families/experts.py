"""Mixtures of experts: every block has a router and many small gated MLPs, of which a token visits a few."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from gguf import GGUFWriter, Keys

from ...errors import InputError
from ..base import Array
from ..rope import Get
from ..weights.safetensors_files import StackedWeights, StoredWeights
from .base import Dims, Family

_EXPERT = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.((?:gate|up|down)_proj\.weight)")


@dataclasses.dataclass(frozen=True)
class ExpertDims(Dims):
    """Sizes of a mixture of experts.

    Attributes:
        experts: number of experts in a block.
        used: number of experts that a token visits.
        expert_size: intermediate size of one expert.
    """

    experts: int = 0
    used: int = 0
    expert_size: int = 0


class ExpertFamily(Family):
    """GGUF holds each projection of all experts of a block in one tensor, ``(experts, rows, columns)``.

    The parameters are named as llama.cpp's converter names what it stacks: ``mlp.experts.gate_proj.weight``.

    Attributes:
        renormalises: llama.cpp's graph divides the weights of the visited experts by their sum.
        size_name: the configuration's name of the intermediate size of an expert.
    """

    renormalises: ClassVar[bool]
    size_name: ClassVar[str] = "intermediate_size"

    def dims(self, config: dict[str, Any], label: str) -> Dims:
        def size(*keys: str) -> int:
            value = next((config[key] for key in keys if config.get(key) is not None), None)
            if not isinstance(value, int) or value <= 0:
                raise InputError(
                    f"The configuration of {label} has no valid {keys[0]} ({value!r}); complete config.json."
                )
            return value

        dims = ExpertDims(
            **dataclasses.asdict(super().dims(config, label)),
            experts=size("num_experts", "num_local_experts"),
            used=size("num_experts_per_tok"),
            expert_size=size(self.size_name),
        )
        if dims.used > dims.experts:
            raise InputError(f"{label} sends a token to {dims.used} of {dims.experts} experts; fix its configuration.")
        return dims

    def check(self, config: dict[str, Any], label: str) -> None:
        super().check(config, label)
        if bool(config.get("norm_topk_prob")) is not self.renormalises:
            raise InputError(
                f"{label} has norm_topk_prob = {config.get('norm_topk_prob')}, and llama.cpp runs {self.title} with "
                f"{self.renormalises} only; choose another model."
            )

    def stored(self, tensors: Mapping[str, StoredWeights]) -> dict[str, StoredWeights]:
        """Checkpoints hold the experts one by one."""
        others: dict[str, StoredWeights] = {}
        experts: dict[str, dict[int, StoredWeights]] = {}
        for name, weights in super().stored(tensors).items():
            if match := _EXPERT.fullmatch(name):
                experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = weights
            else:
                others[name] = weights
        stacked = {name: StackedWeights.of([parts[i] for i in sorted(parts)]) for name, parts in experts.items()}
        return others | stacked

    def block_parameters(self, dims: Dims) -> dict[str, tuple[int, ...]]:
        assert isinstance(dims, ExpertDims)
        shapes = {name: shape for name, shape in super().block_parameters(dims).items() if not name.startswith("mlp.")}
        shapes["mlp.gate.weight"] = (dims.experts, dims.hidden)
        shapes["mlp.experts.gate_proj.weight"] = (dims.experts, dims.expert_size, dims.hidden)
        shapes["mlp.experts.up_proj.weight"] = (dims.experts, dims.expert_size, dims.hidden)
        shapes["mlp.experts.down_proj.weight"] = (dims.experts, dims.hidden, dims.expert_size)
        return shapes

    def write(self, config: dict[str, Any], dims: Dims, writer: GGUFWriter) -> None:
        assert isinstance(dims, ExpertDims)
        super().write(config, dims, writer)
        writer.add_expert_count(dims.experts)
        writer.add_expert_used_count(dims.used)

    def config_of_keys(
        self, get: Get, shapes: dict[str, tuple[int, ...]], computed: Mapping[str, Array], label: str
    ) -> dict[str, Any]:
        need = self.needed(get, shapes, label)
        for key in (Keys.LLM.EXPERT_GROUP_COUNT, Keys.LLM.EXPERT_WEIGHTS_SCALE):
            if get(key) not in (None, 0, 1):
                raise InputError(
                    f"{label} chooses experts in a way that transformers' {self.title} lacks; choose another."
                )
        return {
            **super().config_of_keys(get, shapes, computed, label),
            "num_experts": need(Keys.LLM.EXPERT_COUNT),
            "num_experts_per_tok": need(Keys.LLM.EXPERT_USED_COUNT),
            "norm_topk_prob": self.renormalises,
        }
