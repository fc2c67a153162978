"""Round matrices with the same input in parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ..allocation.plan import TensorPlan
from ..blockwise.precision import fast_products
from ..blockwise.workers import Workers
from ..evidence.loss.losses import Losses, TypeLoss
from ..evidence.loss.measure import LossEvidence
from ..evidence.loss.predictions import predict_tensors
from ..gguf.names import InputGroup
from ..gptq.factor import Factor, factorise
from ..gptq.feedback import DAMPING, round_by_factor
from ..gptq.hessian import CrossMoment, Hessian, count_held_out, importance_of
from ..llama import encoders as ggml
from ..llama.encoders import Packed
from ..sources.base import Array, Source
from ..system.memory import WIDE, give_back_memory
from .drift import correction

# Rows that a worker rounds at a time: enough to outweigh the calls, few enough to keep all workers busy. The bytes may
# depend on it, so it depends on the matrices only.
_FEWEST_ROWS = 384
_MOST_ROWS = 1536
# Upper limit with wide rows, because a worker holds several float32 arrays of as many weights.
_MOST_WEIGHTS = 1 << 22


def round_group(
    group: Sequence[InputGroup],
    plans: Mapping[str, TensorPlan],
    linears: Mapping[str, nn.Linear],
    measured: tuple[dict[InputGroup, Hessian], dict[InputGroup, CrossMoment]],
    loss: LossEvidence,
    source: Source,
    workers: Workers,
) -> dict[str, tuple[Packed, Array]]:
    """Round input groups in parallel.

    Args:
        group: input groups to round.
        plans: plan of each tensor, by name.
        linears: modules of the block, by name.
        measured: H and C by input group; those of ``group`` are removed.
        loss: loss weights and predicted losses.
        source: model with the weights.
        workers: pool that rounds.

    Returns:
        Bytes, uint8 ``(rows, bytes of a row)``, and decoded values, float32 ``(rows, columns)``, by name.
    """
    losses = loss.losses
    columns = linears[group[0][0]].in_features
    if columns >= WIDE:
        give_back_memory()

    def prepare(readers: InputGroup) -> dict[str, Prepared]:
        types = {name: plans[name].type for name in readers}
        unjudged = {name: [kind] for name, kind in types.items() if kind not in losses.get(name, {})}
        moments, cross = measured[0].pop(readers), measured[1].pop(readers, None)
        # A worker must not wait for others.
        helpers = workers if len(group) == 1 else None
        return _prepare(types, unjudged, linears, moments, cross, loss, source, helpers)

    with workers.for_columns(columns):
        parts = workers.map(prepare, group) if len(group) > 1 else [prepare(group[0])]
    prepared = {name: one for part in parts for name, one in part.items()}
    del parts
    return round_prepared(prepared, workers)


def round_prepared(
    prepared: dict[str, Prepared], workers: Workers, *, keep_values: bool = True
) -> dict[str, tuple[Packed, Array]]:
    """Bytes and decoded values by name.

    Args:
        prepared: matrices to round, by name; it is emptied.
        workers: pool that rounds.
        keep_values: False leaves the decoded values empty.
    """

    def work(piece: tuple[str, slice]) -> tuple[Packed, Array]:
        name, rows = piece
        return prepared[name].round(rows, keep_values=keep_values)

    pieces = _pieces(prepared)
    # The longest first, so that no worker is left with it at the end.
    longest_first = sorted(pieces, key=lambda piece: -prepared[piece[0]].matrix[piece[1]].size)
    rounded = {
        (name, rows.start): done
        for (name, rows), done in zip(longest_first, workers.map(work, longest_first), strict=True)
    }
    names = list(prepared)
    prepared.clear()  # the factor is as large as H
    whole = {}
    for name in names:
        parts = (rounded.pop((piece, rows.start)) for piece, rows in pieces if piece == name)
        packed, values = zip(*parts, strict=True)
        whole[name] = np.concatenate(packed), np.concatenate(values)
    return whole


def _prepare(
    types: Mapping[str, str],
    unjudged: Mapping[str, Sequence[str]],
    linears: Mapping[str, nn.Linear],
    moments: Hessian,
    cross: CrossMoment | None,
    loss: LossEvidence,
    source: Source,
    workers: Workers | None,
) -> dict[str, Prepared]:
    """An input group, ready to be rounded to its ``types``, with the correction of the drift where there is C.

    For ``unjudged`` types it is first decided whether feedback is used.
    """
    names = list(types)
    # Rows in llama.cpp's order, which may differ from the module's; they are rounded one by one.
    matrices = {name: source.read(name) for name in names}
    # The module's rows, whose order is that of the channels.
    weights = {name: linears[name].weight.numpy() for name in names}
    channels = {name: loss.weights.channels[name].numpy() for name in names}
    losses = loss.losses
    judged: Losses = {}
    if cross is not None:
        cross.subtract(weights[names[0]], moments)
    if cross is not None or unjudged:
        factor = factorise(moments.learned, DAMPING, in_place=True)
        judged = predict_tensors(weights, moments, channels, count_held_out(loss.tokens.shape), unjudged, factor)
        if cross is not None:
            # No family permutes rows or columns of matrices that write to the residual stream.
            change = correction(factor, moments, cross, channels[names[0]], workers)
            # Rows of zeros write nothing on purpose (added blocks, pruned matrices).
            change[~matrices[names[0]].any(1)] = 0
            matrices[names[0]] = np.add(matrices[names[0]], change, out=change)
            del change
        factor.undamp()
        del factor  # as large as H
    choices = {name: (judged if name in unjudged else losses)[name][kind] for name, kind in types.items()}
    with fast_products():
        hessian = moments.merge()
    return prepare_matrices(matrices, types, choices, hessian)


def prepare_matrices(
    matrices: Mapping[str, Array], types: Mapping[str, str], choices: Mapping[str, TypeLoss], moments: Array
) -> dict[str, Prepared]:
    """An input group, ready to be rounded.

    Args:
        matrices: weights by name, float32 ``(rows, columns)``.
        types: ggml types by name.
        choices: predicted losses by name, which decide whether feedback is used.
        moments: H of all tokens, float32 ``(columns, columns)``; its memory is taken.
    """
    importance = importance_of(moments.diagonal().copy())
    needed = any(choice.feeds_back for choice in choices.values())
    factor = factorise(moments, DAMPING, in_place=True) if needed else None
    return {
        name: Prepared(matrices[name], kind, factor if choices[name].feeds_back else None, importance)
        for name, kind in types.items()
    }


def _pieces(prepared: Mapping[str, Prepared]) -> list[tuple[str, slice]]:
    """Pieces of rows, so that all workers have work even with a single matrix."""
    rows = sum(len(matrix.matrix) for matrix in prepared.values())
    columns = max(matrix.matrix.shape[1] for matrix in prepared.values())
    step = max(_FEWEST_ROWS, min(rows // 4, _MOST_ROWS, _MOST_WEIGHTS // columns))
    return [
        (name, slice(start, start + step))
        for name, matrix in prepared.items()
        for start in range(0, len(matrix.matrix), step)
    ]


@dataclass(frozen=True)
class Prepared:
    """A matrix that is ready to be rounded, some rows at a time.

    Attributes:
        matrix: weights, float32 ``(rows, columns)``.
        type_name: ggml type.
        factor: factor of the damped H; None rounds by importance, because that was better on held-out tokens.
        importance: importance of the columns, float32 ``(columns,)``.
    """

    matrix: Array
    type_name: str
    factor: Factor | None
    importance: Array

    def round(
        self, rows: slice = slice(None), threads: int | None = 1, *, keep_values: bool = True
    ) -> tuple[Packed, Array]:
        """Bytes and decoded values of some rows."""
        matrix = self.matrix[rows]
        if self.factor is not None:
            rounded = round_by_factor(matrix, self.factor, self.type_name, threads=threads, keep_values=keep_values)
            return rounded.packed, rounded.values
        packed = ggml.encode(matrix, self.type_name, self.importance, threads)
        if not keep_values:
            return packed, matrix[:0]
        return packed, ggml.dequantize(packed, self.type_name, (matrix.shape[0], matrix.shape[1]))
