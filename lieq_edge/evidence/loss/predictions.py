"""Predict the loss of each type, tensor by tensor, before anything is decided.

The prediction is ``1/2 tr(E H E^T)`` a token, in nats: E the rounding error, H the loss-weighted second moment of the
inputs (``weights``), each row counted with its output channel's share of the gradient and the coherence of
its linear. E is the error of a sample of rows, rounded by learned tokens and judged on held-out ones.

The gain of error feedback is measured with one of the types, because it costs much more than encoding and hardly
differs between types (docs/method.md). i-quants gain less, each in its own measure, so each of them is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...blockwise.model import BlockModel
from ...blockwise.outer import stored_rows
from ...blockwise.sixteen_bits import DTYPES
from ...gguf.blocks import LAYOUTS
from ...gguf.types import CODEBOOK_TYPES, TYPES
from ...gptq.factor import Factor, factorise
from ...gptq.feedback import DAMPING, round_by_factor
from ...gptq.hessian import Hessian, count_held_out, held_out_sequences, importance_of, weighted_moments
from ...llama import encoders as ggml
from ...sources.base import Source
from .losses import Losses, TypeLoss
from .request import ROWS
from .weights import LossWeights

Floats = npt.NDArray[np.float32]

OUTER_ROWS = 1024
"""Rows of embedding and head that are rounded: more, because their rows differ more and their losses are larger."""

KEPT = 0.2
"""Share of the tokens that predictions are made from, unless rounding uses the same H, which takes more of them."""


def predict_outer(
    source: Source,
    moments: Mapping[str, tuple[Hessian, Floats]],
    shape: tuple[int, ...],
    candidates: Mapping[str, Sequence[str]],
    *,
    weighted: bool = True,
) -> Losses:
    """Predict the losses of head and embedding.

    Args:
        source: model with the weights.
        moments: H and row energies of these matrices, as ``outer_hessians`` gives them.
        shape: shape of the calibration tokens, ``(n, T)``.
        candidates: types to try by tensor name.
        weighted: True weights rounding without feedback by importance.
    """
    held_out_tokens = count_held_out(shape)
    losses: Losses = {}
    for name, (hessian, channels) in moments.items():
        # A copy, because rounding needs H again.
        factor = factorise(hessian.learned, DAMPING)
        # These rows alone are read: all of them take a GB where the vocabulary is large.
        rows, weights = sample_rows(channels, OUTER_ROWS)
        losses |= predict_tensors(
            {name: _rows_of(source, name, rows)},
            hessian,
            {name: weights},
            held_out_tokens,
            candidates,
            factor,
            rows=OUTER_ROWS,
            weighted=weighted,
        )
    return losses


def _rows_of(source: Source, name: str, rows: npt.NDArray[np.int64]) -> Floats:
    """Rows of head or embedding, float32 ``(len(rows), columns)``; only these are read if the source can."""
    kind = DTYPES.get(next(spec.stored for spec in source.tensors() if spec.name == name))
    if kind is None or stored_rows(source, name, slice(0, 1), kind) is None:
        return source.read(name)[rows]
    parts = [stored_rows(source, name, slice(row, row + 1), kind) for row in rows.tolist()]
    values: Floats = torch.cat([part for part in parts if part is not None]).float().numpy()
    return values


def predict_tensors(
    matrices: Mapping[str, Floats],
    moments: Hessian,
    channels: Mapping[str, Floats],
    held_out_tokens: float,
    candidates: Mapping[str, Sequence[str]],
    factor: Factor,
    *,
    rows: int = ROWS,
    weighted: bool = True,
) -> Losses:
    """Predicted losses of tensors that read the same input, by name and type.

    Args:
        matrices: weights by name, float32 ``(rows, columns)``.
        moments: H of their input.
        channels: weight of an error in each row, by name, ``(rows,)``: the relative energy of the gradient there, times
            the coherence where it is known.
        held_out_tokens: number of tokens that ``moments.held_out`` stands for.
        candidates: types to try, by name.
        factor: factor of the damped H of the learned tokens.
        rows: number of rows of each matrix that are rounded.
        weighted: True weights rounding without feedback by importance.
    """
    errors = rounding_errors(
        matrices, moments, channels, held_out_tokens, candidates, factor, rows=rows, weighted=weighted
    )
    return {name: with_gain(candidates[name], found) for name, found in errors.items()}


@dataclass(frozen=True)
class RoundingErrors:
    """What rounding does to the loss, nats a token.

    Attributes:
        nearest: without feedback, by type.
        reached: with feedback, for the type whose gain is that of others; None if none of the types takes feedback.
        unaided: without feedback, for the same type.
        own: with feedback, by type, for types whose gain is their own.
    """

    nearest: dict[str, float]
    reached: float | None
    unaided: float
    own: dict[str, float]

    def __add__(self, other: RoundingErrors) -> RoundingErrors:
        nearest = {kind: loss + other.nearest[kind] for kind, loss in self.nearest.items()}
        # Experts may differ in the type whose gain is measured, but not in whether there is one.
        reached = None if self.reached is None or other.reached is None else self.reached + other.reached
        own = {kind: loss + other.own[kind] for kind, loss in self.own.items()}
        return RoundingErrors(nearest, reached, self.unaided + other.unaided, own)

    def gain(self, kind: str) -> float:
        """Errors of a type with feedback over those without."""
        if kind in self.own:
            return self.own[kind] / max(self.nearest[kind], 1e-30)
        if kind not in LAYOUTS or self.reached is None:
            return 1.0
        return self.reached / max(self.unaided, 1e-30)


def rounding_errors(
    matrices: Mapping[str, Floats],
    moments: Hessian,
    channels: Mapping[str, Floats],
    held_out_tokens: float,
    candidates: Mapping[str, Sequence[str]],
    factor: Factor,
    *,
    rows: int = ROWS,
    weighted: bool = True,
) -> dict[str, RoundingErrors]:
    """Errors behind ``predict_tensors``, with the same arguments, by name."""
    types = {name: candidates[name] for name in matrices if candidates.get(name)}
    if not types:
        return {}
    held_out = moments.held_out.T
    importance = importance_of(factor.diagonal.numpy()) if weighted else None
    chosen = {name: sample_rows(channels[name], rows) for name in types}
    samples = {name: np.ascontiguousarray(matrices[name][chosen[name][0]]) for name in types}

    def losses(
        wanted: Mapping[str, Sequence[str]], rounded: Callable[[str, Floats], Floats]
    ) -> dict[str, dict[str, float]]:
        results: dict[str, dict[str, float]] = {name: {} for name in wanted}
        for kind in dict.fromkeys(kind for kinds in wanted.values() for kind in kinds):
            names = [name for name, kinds in wanted.items() if kind in kinds]
            # The rows of all tensors at once, because a call has many small steps however few rows it gets.
            together = np.concatenate([samples[name] for name in names])
            outputs = (together - rounded(kind, together)) @ held_out
            energies = np.einsum("ij,ij->i", outputs, outputs)
            for name in names:
                rows_of_tensor, energies = np.split(energies, [len(samples[name])])
                results[name][kind] = 0.5 * float(rows_of_tensor @ chosen[name][1]) / held_out_tokens
        return results

    def encoded(kind: str, rows: Floats) -> Floats:
        return ggml.dequantize(ggml.encode(rows, kind, importance, 1), kind, (rows.shape[0], rows.shape[1]))

    def fed_back(kind: str, rows: Floats) -> Floats:
        return round_by_factor(rows, factor, kind, threads=1).values

    nearest = losses(types, encoded)
    single = {
        name: [kind for kind in kinds if kind in LAYOUTS and kind in CODEBOOK_TYPES] for name, kinds in types.items()
    }
    others = {name: [kind for kind in kinds if kind not in single[name]] for name, kinds in types.items()}
    reached = losses({name: _anchor(kinds, nearest[name]) for name, kinds in others.items()}, fed_back)
    own = losses(single, fed_back)

    def gathered(name: str) -> RoundingErrors:
        if not reached[name]:
            return RoundingErrors(nearest[name], None, 0.0, own[name])
        ((anchor, loss),) = reached[name].items()
        return RoundingErrors(nearest[name], loss, nearest[name][anchor], own[name])

    return {name: gathered(name) for name in types}


def _anchor(types: Sequence[str], nearest: Mapping[str, float]) -> list[str]:
    """The type to measure the gain of feedback with: rather a small one, where errors matter; empty if none has one.

    A type in which the weights were stored before has errors far below those of larger types. Feedback finds its grid
    again, and the gain would be that of no other type.
    """
    larger = {name: [nearest[other] for other in types if TYPES[other].bpw > TYPES[name].bpw] for name in types}
    usual = [name for name in types if nearest[name] >= 0.5 * max(larger[name], default=0.0)]
    by_bits = sorted((name for name in usual if name in LAYOUTS), key=lambda name: TYPES[name].bits)
    return by_bits[(len(by_bits) - 1) // 3 :][:1]


def with_gain(types: Sequence[str], errors: RoundingErrors) -> dict[str, TypeLoss]:
    """Losses of one tensor without feedback, and with it for some types, made one for each type."""
    losses = {}
    for name in types:
        ratio = min(errors.gain(name), 1.0)
        losses[name] = TypeLoss(errors.nearest[name] * ratio, errors.nearest[name], ratio < 1)
    return losses


def sample_rows(channels: Floats, count: int = ROWS) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows that stand for a tensor, and the weight of the error of each.

    A row of more weight than one draw stands for itself. The others are drawn at even steps of their running sum, the
    likelier the more weight they have, and stand for equal parts of it.

    Args:
        channels: weight of an error in each row, ``(rows,)``.
        count: number of rows to draw.
    """
    if len(channels) <= count:
        return np.arange(len(channels)), channels
    counts = channels.astype(np.float64)
    alone = np.zeros(len(counts), np.bool_)
    step = counts.sum() / count
    while (more := ~alone & (counts > step)).any():
        alone |= more
        step = counts[~alone].sum() / (count - alone.sum())
    others = np.flatnonzero(~alone)
    drawn = others[:0]
    if step > 0:
        steps = (np.arange(count - alone.sum()) + 0.5) * step
        drawn = others[np.searchsorted(counts[others].cumsum(), steps).clip(max=len(others) - 1)]
    certain = np.flatnonzero(alone)
    weights = np.concatenate([channels[certain], np.full(len(drawn), step)]).astype(np.float32)
    return np.concatenate([certain, drawn]), weights


def outer_hessians(model: BlockModel, hidden: Tensor, weights: LossWeights) -> dict[str, tuple[Hessian, Floats]]:
    """H and row energies of head and embedding; ``hidden`` is the last block's output, ``(n, T, d)``.

    An error in a row of the embedding acts only where its token is read, and column by column, so its H is diagonal and
    its rows are weighted by their use. A tied matrix has both H; each
    row has its own mixture of them, and the mean over the rows stands for it.
    """
    head = weighted_moments((model.final_norm(part) for part in hidden), weights.tokens[model.head_name,])
    uses = weights.embedding / max(float(weights.embedding.mean()), 1e-30)
    diagonal = weights.embedding_columns * weights.embedding.mean()
    share = len(held_out_sequences(hidden.shape[0])) / hidden.shape[0]
    embedding = Hessian((diagonal * (1 - share)).diag().numpy(), (diagonal * share).sqrt().diag().numpy())
    if model.head_name == "token_embd.weight":
        both = Hessian(head.learned + embedding.learned, np.concatenate([head.held_out, embedding.held_out]))
        # The part of the summed squared gradient that each role brings.
        part = head.trace / both.trace if both.trace > 0 else 1.0
        channels = part * weights.channels[model.head_name] + (1 - part) * uses
        return {model.head_name: (both, channels.numpy())}
    return {
        "token_embd.weight": (embedding, uses.numpy()),
        model.head_name: (head, weights.channels[model.head_name].numpy()),
    }
