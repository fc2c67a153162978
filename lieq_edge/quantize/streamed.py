"""Round block after block with error feedback, each measured through the blocks that are already rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..allocate.plan import Plan, TensorPlan
from ..source.base import Array, Source
from . import ggml
from .codec import LAYOUTS
from .feedback import DAMPING, round_with_feedback
from .ggml import Packed
from .sensitivity import Sensitivity, TypeLoss
from .statistics import MomentCollector, importance_of
from .tensors import Importance, encode_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from ..measure.loss_weights import LossWeights
    from ..measure.model import BlockModel


@dataclass(frozen=True)
class FeedbackInputs:
    """What rounding with feedback needs beside the plan.

    Attributes:
        model: in full precision; its blocks must not be kept in memory, for they are overwritten.
        tokens: the calibration windows ``(n, T)``.
        weights: of the loss on them.
        sensitivity: rounding and damping by tensor and type, judged on held-out sequences, and H of the matrices
            outside the blocks.
    """

    model: BlockModel
    tokens: Tensor
    weights: LossWeights
    sensitivity: Sensitivity


def encode_streamed(
    source: Source, plan: Plan, importance: Importance, inputs: FeedbackInputs, *, threads: int | None = None
) -> Iterator[tuple[TensorPlan, Packed]]:
    """Encode every tensor in the plan's order; block matrices with error feedback.

    Args:
        source: of the weights.
        plan: the types.
        importance: for tensors outside the blocks and those whose held-out error asks for importance rounding.
        inputs: for the feedback.
        threads: of ggml's encoder.

    Yields:
        The tensor's plan and its bytes.
    """
    import torch

    model = inputs.model
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    with torch.no_grad():
        hidden = model.embed(inputs.tokens)
        done = 0
        packed: dict[str, Packed] = {}
        for tensor in plan.tensors:
            # Blocks come in order; the first tensor of one asks for all of it.
            parts = tensor.name.split(".")
            while parts[0] == "blk" and int(parts[1]) >= done:
                packed |= _round_block(done, by_name, hidden, inputs, threads)
                done += 1
            if tensor.name in packed:
                yield tensor, packed.pop(tensor.name)
            elif tensor.name in inputs.sensitivity.outer:
                matrix, moments = source.read(tensor.name), inputs.sensitivity.outer[tensor.name]
                yield tensor, _round(matrix, moments, tensor.type, _choice(tensor, inputs), threads)[0]
            else:
                yield tensor, encode_tensor(source.read(tensor.name), tensor, importance, threads=threads)


def _round_block(
    index: int,
    plans: Mapping[str, TensorPlan],
    hidden: Tensor,
    inputs: FeedbackInputs,
    threads: int | None,
) -> dict[str, Packed]:
    """Round the matrices of a block; ``hidden`` becomes its output with the rounded weights."""

    model = inputs.model
    packed: dict[str, Packed] = {}
    with model.block(index) as module:
        collector = MomentCollector(model, module, index, inputs.weights)
        collector.run(module, index, hidden, keep=False)
        for name, linear in model.linears(module, index).items():
            # Rows in llama.cpp's order, which may differ from the module's; they are rounded one by one.
            matrix = model.source.read(name)
            moments = collector.moments[name].whole.numpy()
            packed[name], values = _round(matrix, moments, plans[name].type, _choice(plans[name], inputs), threads)
            linear.weight.copy_(model.parameter(name, values))
        model.advance(module, index, hidden)
    return packed


def _choice(tensor: TensorPlan, inputs: FeedbackInputs) -> TypeLoss | None:
    return inputs.sensitivity.losses.get(tensor.name, {}).get(tensor.type)


def _round(
    matrix: Array, moments: Array, type_name: str, choice: TypeLoss | None, threads: int | None
) -> tuple[Packed, Array]:
    """Bytes and decoded values of a matrix, by feedback or, where that was judged worse, by importance."""
    if type_name in LAYOUTS and (choice is None or choice.rounding == "feedback"):
        damping = DAMPING if choice is None else choice.damping
        rounded = round_with_feedback(matrix, moments, type_name, damping=damping, threads=threads)
        return rounded.packed, rounded.values
    importance = importance_of(moments)
    packed = ggml.encode(matrix, type_name, importance, threads)
    return packed, ggml.dequantize(packed, type_name, (matrix.shape[0], matrix.shape[1]))
