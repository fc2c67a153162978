"""Round the experts of a block, each by its own H; one ggml tensor holds a projection of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..blockwise.workers import Workers
from ..evidence.loss.expert_predictions import pooled_hessians, pooled_inside, predict_experts
from ..evidence.loss.losses import Losses, TypeLoss
from ..gguf.names import InputGroup
from ..gptq.experts import ExpertInputs, Visits
from ..llama.encoders import Packed
from ..sources.base import Array
from .group import prepare_matrices


@dataclass(frozen=True)
class ExpertTensors:
    """The experts of a block, to be rounded.

    Attributes:
        groups: names of gate and up-projection, and of the down-projection.
        matrices: weights ``(experts, rows, columns)`` by name.
        types: type of each tensor.
    """

    groups: tuple[InputGroup, InputGroup]
    matrices: dict[str, Array]
    types: dict[str, str]

    @property
    def gate(self) -> Array:
        return self.matrices[self.groups[0][0]]

    @property
    def up(self) -> Array:
        return self.matrices[self.groups[0][1]]


def judge_experts(
    tensors: ExpertTensors,
    inputs: ExpertInputs,
    channels: Mapping[str, Array],
    held_out_tokens: float,
    workers: Workers,
) -> Losses:
    """Predicted losses of the types that were chosen without any; ``inputs`` divided."""
    types = {name: (kind,) for name, kind in tensors.types.items()}
    return predict_experts(tensors.groups, tensors.matrices, inputs, channels, held_out_tokens, types, workers)


def round_experts(
    tensors: ExpertTensors, inputs: ExpertInputs, losses: Losses, workers: Workers, *, behind: bool
) -> dict[str, Packed]:
    """The bytes of each tensor, ``(experts * rows, bytes of a row)``, by name.

    Args:
        tensors: what is rounded.
        inputs: what the experts receive, not divided.
        losses: predicted losses, which say how each type is rounded.
        workers: where experts are worked on, each by one of them.
        behind: a down-projection is rounded behind the rounded gate and up-projection; the matrices then become what
            was written.
    """
    choices = {name: losses[name][kind] for name, kind in tensors.types.items()}
    entering, inside = tensors.groups
    experts = range(len(tensors.gate))
    if behind:
        (pooled,) = workers.map(lambda _: inputs.pool_entering(), (0,))
    else:
        pooled, pooled_inner = pooled_hessians(inputs, tensors.gate, tensors.up, workers)

    def round_one(names: InputGroup, expert: int, visits: Visits, pooled: Array) -> list[Packed]:
        matrices = {name: tensors.matrices[name][expert] for name in names}
        types = {name: tensors.types[name] for name in names}
        chosen: dict[str, TypeLoss] = {name: choices[name] for name in names}
        prepared = prepare_matrices(matrices, types, chosen, inputs.shrunk(visits, pooled).learned)
        packed = []
        for name, matrix in prepared.items():
            codes, values = matrix.round(keep_values=behind)
            packed.append(codes)
            if behind:
                tensors.matrices[name][expert] = values
        return packed

    rounded = workers.map(lambda e: round_one(entering, e, inputs.entering(e), pooled), experts)
    packed = {name: np.concatenate(parts) for name, parts in zip(entering, zip(*rounded, strict=True), strict=True)}
    if behind:
        pooled_inner = pooled_inside(inputs, tensors.gate, tensors.up, workers)

    def round_down(expert: int) -> list[Packed]:
        visits = inputs.inside(expert, tensors.gate[expert], tensors.up[expert])
        return round_one(inside, expert, visits, pooled_inner)

    down = [codes for (codes,) in workers.map(round_down, experts)]
    return {**packed, inside[0]: np.concatenate(down)}
