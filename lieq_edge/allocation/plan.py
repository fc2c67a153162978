"""A plan: the type of every tensor, made from measurements and a budget. Needs no model and no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ..device.pace import Pace
from ..errors import InputError
from ..evidence.blocks.metrics import EQUAL_WEIGHTS, ScoreOptions
from ..evidence.blocks.records import Diagnostics, TensorInfo
from ..evidence.blocks.table import score_blocks
from ..gguf.container import header_size, padded
from ..gguf.names import EMBEDDING, HEAD, block_of
from ..gguf.storage import storage_type
from ..gguf.types import LEVEL_TYPES, TYPES, is_matrix
from ..texts.info import TextInfo
from .budget import Budget, parse_budget
from .levels import check_range, levels_under, many_levels, two_levels
from .types import resolve

# Upper limit of the key-values under ``lieq.``, which hold scores, bits and hashes.
_LIEQ_KEYS_BYTES = 4096
_LIEQ_KEYS_BYTES_A_BLOCK = 48

EMBEDDINGS = frozenset({EMBEDDING, "per_layer_token_embd.weight"})
"""Tables that a token's row is looked up in."""


@dataclass(frozen=True)
class TensorPlan:
    """The type of one tensor.

    Attributes:
        name: GGUF name.
        shape: shape in numpy order.
        type: name of the ggml type in the file.
        nbytes: size without padding.
        wanted: type that the level asked for, if it does not fit the rows; else None.
        kept: True if the source's own bytes are copied.
        predicted_loss: rise of the loss that the type is predicted to cause, nats a token; None if none is predicted.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int
    wanted: str | None = None
    kept: bool = False
    predicted_loss: float | None = None


@dataclass(frozen=True)
class BlockPlan:
    """Score and nominal bits of one block (their mean over its weights where types differ within it)."""

    index: int
    score: float
    bits: float


@dataclass(frozen=True)
class Plan:
    """Types of all tensors, and their sums.

    Attributes:
        budget: text of the user.
        nominal_bits: average nominal bits of the block weights (the paper's meaning).
        bpw: physical bits a weight of the block weights.
        file_bpw: physical bits a weight over all weights.
        compression_ratio: CR of the paper, nominal bits over 16.
        data_bytes: size of all tensors with padding.
        file_bytes: upper limit of the size of the finished file.
        predicted_loss: sum of the predicted losses, nats a token; None if the metric predicts none.
        pace: predicted speed on the device of the export; None without a device.
    """

    model: str
    architecture: str
    model_hash: str
    metric: str
    seed: int
    budget: str
    levels: tuple[int, ...]
    blocks: tuple[BlockPlan, ...]
    tensors: tuple[TensorPlan, ...]
    nominal_bits: float
    bpw: float
    file_bpw: float
    compression_ratio: float
    data_bytes: int
    file_bytes: int
    probe: TextInfo | None = None
    predicted_loss: float | None = None
    fallbacks: dict[str, str] = field(default_factory=dict)
    pace: Pace | None = None

    def types_by_block(self) -> list[Counter[str]]:
        """Number of matrices of each type, block by block."""
        counts: list[Counter[str]] = [Counter() for _ in self.blocks]
        for tensor in self.tensors:
            block = block_of(tensor.name)
            if block is not None and is_matrix(tensor.name, tensor.shape):
                counts[block][tensor.type] += 1
        return counts


@dataclass(frozen=True)
class PlanOptions:
    """Options of allocation.

    Attributes:
        levels: ascending nominal bits; with (2, 4) and a nominal budget the paper's rule (Eqs 9-10) is used.
        token_embedding_type: type of ``token_embd.weight``; None takes Q6_K when it is also the output head and
            Q4_K otherwise.
        output_type: type of ``output.weight``; None takes Q6_K.
        strict_types: True refuses types that do not fit a tensor's rows instead of replacing them.
        portable: True replaces them by types that programs with kernels of their own read too.
        seed: seed of the metric ``random``.
        weights: weights (a, b, c) of the metric ``composite``.
        granularity: ``block``, or ``tensor`` for the metric ``loss``.
    """

    metric: str = "geometry"
    levels: tuple[int, ...] = (2, 3, 4)
    token_embedding_type: str | None = None
    output_type: str | None = None
    strict_types: bool = False
    portable: bool = False
    seed: int = 0
    weights: tuple[float, float, float] = EQUAL_WEIGHTS
    granularity: str = "block"


def make_plan(diagnostics: Diagnostics, budget: str | Budget, options: PlanOptions | None = None) -> Plan:
    """Allocate types to all tensors of the measured model under a budget.

    Raises:
        InputError: the budget is out of reach (the sentence gives the range), a measurement that the metric needs is
            missing, or a type does not fit and ``strict_types`` is set.
    """
    options = options or PlanOptions()
    budget = parse_budget(budget) if isinstance(budget, str) else budget
    levels = _check_levels(options.levels)
    scores = score_blocks(diagnostics, options.metric, ScoreOptions(options.seed, options.weights))
    members = block_tensors(diagnostics.tensors, len(diagnostics.blocks))
    sizes = [sum(count_weights(tensor) for tensor in tensors) for tensors in members]
    fixed = [plan_fixed(tensor, diagnostics, options) for tensor in diagnostics.tensors if not is_block_weight(tensor)]

    def at_level(tensor: TensorInfo, level: int) -> TensorPlan:
        return plan_tensor(tensor, LEVEL_TYPES[level], options)

    def block_bytes(block: int, level: int) -> int:
        return sum(padded(at_level(tensor, level).nbytes) for tensor in members[block])

    overhead = overhead_bytes(diagnostics) + sum(padded(tensor.nbytes) for tensor in fixed)
    bits = _allocate(budget, levels, scores, sizes, block_bytes, overhead)
    types = {
        tensor.name: at_level(tensor, level) for tensors, level in zip(members, bits, strict=True) for tensor in tensors
    }
    types.update({tensor.name: tensor for tensor in fixed})
    tensors = tuple(types[tensor.name] for tensor in diagnostics.tensors)
    return summarise(diagnostics, budget, options, scores, tensors, nominal={i: float(b) for i, b in enumerate(bits)})


def _allocate(
    budget: Budget,
    levels: tuple[int, ...],
    scores: list[float],
    sizes: list[int],
    block_bytes: Callable[[int, int], int],
    overhead: int,
) -> list[int]:
    if budget.kind == "nominal":
        check_range(budget.value, levels[0], levels[-1])
        if len(levels) == 1:
            return [levels[0]] * len(sizes)
        if levels == (2, 4):
            return two_levels(scores, sizes, budget.value, 2, 4)
        return many_levels(scores, sizes, budget.value, levels)
    total = sum(sizes)
    spare = 0 if budget.kind == "bpw" else overhead
    limit = budget.value * total / 8 * (1 + 1e-12) if budget.kind == "bpw" else budget.value - overhead
    bits = levels_under(scores, levels, limit, block_bytes, sizes)
    if bits is None:
        least = sum(block_bytes(i, levels[0]) for i in range(len(sizes)))
        most = sum(block_bytes(i, levels[-1]) for i in range(len(sizes)))
        if budget.kind == "bpw":
            reach = f"{8 * least / total:.3f} to {8 * most / total:.3f} bits a weight"
        else:
            reach = f"{(least + spare) / 1e6:.1f} MB to {(most + spare) / 1e6:.1f} MB"
        raise InputError(
            f"The budget {budget.text} is out of reach: this model with these levels and types takes {reach}; "
            "raise the budget, or choose smaller --levels, --token-embedding-type or --output-type."
        )
    return bits


def summarise(
    diagnostics: Diagnostics,
    budget: Budget,
    options: PlanOptions,
    scores: Sequence[float],
    tensors: tuple[TensorPlan, ...],
    *,
    nominal: Mapping[int, float],
    predicted_loss: float | None = None,
) -> Plan:
    """A plan from the types of all tensors; ``nominal`` gives the bits of each block."""
    in_blocks = [tensor for tensor in tensors if is_block_weight(tensor)]
    block_weights = sum(count_weights(tensor) for tensor in in_blocks)
    all_weights = sum(count_weights(tensor) for tensor in tensors)
    blocks = ((block_of(tensor.name) or 0, count_weights(tensor)) for tensor in in_blocks)
    mean_bits = sum(nominal[block] * count for block, count in blocks) / block_weights
    data = sum(padded(tensor.nbytes) for tensor in tensors)
    return Plan(
        model=diagnostics.model,
        architecture=diagnostics.architecture,
        model_hash=diagnostics.model_hash,
        metric=options.metric,
        seed=options.seed,
        budget=budget.text,
        levels=tuple(options.levels),
        blocks=tuple(BlockPlan(i, score, nominal[i]) for i, score in enumerate(scores)),
        tensors=tensors,
        nominal_bits=mean_bits,
        bpw=8 * sum(tensor.nbytes for tensor in in_blocks) / block_weights,
        file_bpw=8 * sum(tensor.nbytes for tensor in tensors) / all_weights,
        compression_ratio=mean_bits / 16,
        data_bytes=data,
        file_bytes=data + overhead_bytes(diagnostics),
        probe=diagnostics.probe,
        predicted_loss=predicted_loss,
        fallbacks={tensor.name: f"{tensor.wanted} -> {tensor.type}" for tensor in tensors if tensor.wanted},
    )


def plan_fixed(tensor: TensorInfo, diagnostics: Diagnostics, options: PlanOptions) -> TensorPlan:
    """Types outside the levels: embedding and head by option or default, everything else in full precision.

    Tensors that the source wants copied stay in their type.
    """
    if tensor.kept is not None:
        return TensorPlan(
            tensor.name, tensor.shape, tensor.kept, storage_type(tensor.kept).nbytes(tensor.shape), kept=True
        )
    tied = not any(other.name == HEAD for other in diagnostics.tensors)
    if tensor.name in EMBEDDINGS:
        return plan_tensor(tensor, options.token_embedding_type or ("Q6_K" if tied else "Q4_K"), options)
    if tensor.name == HEAD:
        return plan_tensor(tensor, options.output_type or "Q6_K", options)
    return TensorPlan(tensor.name, tensor.shape, "F32", TYPES["F32"].nbytes(tensor.shape))


def plan_tensor(tensor: TensorInfo, type_name: str, options: PlanOptions) -> TensorPlan:
    """One tensor in the type that fits its rows."""
    resolved = resolve(
        type_name, tensor.shape[-1], strict=options.strict_types, portable=options.portable, tensor=tensor.name
    )
    return TensorPlan(
        tensor.name, tensor.shape, resolved.type.name, resolved.type.nbytes(tensor.shape), resolved.wanted
    )


def overhead_bytes(diagnostics: Diagnostics) -> int:
    """Upper limit of the bytes before the data of the tensors."""
    lieq_keys = _LIEQ_KEYS_BYTES + _LIEQ_KEYS_BYTES_A_BLOCK * len(diagnostics.blocks)
    return header_size(diagnostics.metadata_bytes + lieq_keys, [(t.name, t.shape) for t in diagnostics.tensors])


def is_block_weight(tensor: TensorInfo | TensorPlan) -> bool:
    """Matrices inside a block; norms and biases are vectors and stay in full precision."""
    return block_of(tensor.name) is not None and is_matrix(tensor.name, tensor.shape) and not tensor.kept


def block_tensors(tensors: Sequence[TensorInfo], count: int) -> list[list[TensorInfo]]:
    """Matrices of each block."""
    members: list[list[TensorInfo]] = [[] for _ in range(count)]
    for tensor in tensors:
        block = block_of(tensor.name)
        if block is not None and is_block_weight(tensor):
            members[block].append(tensor)
    return members


def count_weights(tensor: TensorInfo | TensorPlan) -> int:
    """Weights of a tensor."""
    return prod(tensor.shape)


def _check_levels(levels: tuple[int, ...]) -> tuple[int, ...]:
    if not levels or any(level not in LEVEL_TYPES for level in levels) or sorted(set(levels)) != list(levels):
        known = ",".join(str(level) for level in LEVEL_TYPES)
        raise InputError(f"--levels takes rising numbers out of {known}, e.g. 2,3,4; got {','.join(map(str, levels))}.")
    return levels
