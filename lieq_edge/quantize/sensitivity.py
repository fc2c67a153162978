"""Predict what each type would do to the loss, tensor by tensor, before anything is decided.

The prediction is ``1/2 tr(E H E^T)`` a token, in nats: E the rounding error, H the loss-weighted second moment of the
inputs (``measure.loss_weights``), each row counted with its output channel's share of the gradient. E is that of a
sample of rows. It is learned on some sequences and judged on others, as the file will be.

What error feedback gains is measured with two of the types and taken to change evenly with the bits between them; it
costs much more than encoding, and hardly differs from type to type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..ggml_types import TYPES
from . import ggml
from .codec import LAYOUTS
from .collecting import Collecting
from .feedback import DAMPING, round_by_factor
from .statistics import Moments, held_out_sequences, importance_of, weighted_moments

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..measure.loss_weights import LossWeights
    from ..measure.model import BlockModel
    from ..source.base import Source
    from .rounding.factor import Factor
    from .workers import Workers

Floats = npt.NDArray[np.float32]

ROWS = 64
"""Rows of a tensor that are rounded to predict its losses."""

KEPT = 0.2
"""Share of the tokens that predictions are made from; rounding takes more of them."""


@dataclass(frozen=True)
class TypeLoss:
    """One type for one tensor.

    Attributes:
        loss: predicted rise of the loss, nats a token, with the better rounding.
        nearest_loss: the same with importance rounding.
        rounding: ``feedback``, or ``imatrix`` where that has the smaller held-out error.
    """

    loss: float
    nearest_loss: float
    rounding: str


Losses = dict[str, dict[str, TypeLoss]]
"""Predictions by GGUF tensor name and type name."""


@dataclass(frozen=True)
class Sensitivity:
    """What was predicted of a model.

    Attributes:
        losses: by GGUF tensor name and type name.
        outer: H of the matrices outside the blocks, float32 ``(columns, columns)``, to round them with.
    """

    losses: Losses
    outer: dict[str, Floats]


class Predictor:
    """Listens to the backward pass over a block, then predicts the losses of its matrices."""

    def __init__(
        self,
        linears: Mapping[str, nn.Linear],
        shape: tuple[int, ...],
        candidates: Mapping[str, Sequence[str]],
        workers: Workers,
    ) -> None:
        """Start listening.

        Args:
            linears: of the block, by GGUF tensor name.
            shape: of the calibration tokens, ``(n, T)``.
            candidates: types to try by tensor name; all must fit the tensor's rows.
            workers: where tensors are worked on, with one thread of torch each.
        """
        held_out = held_out_sequences(shape[0])
        self._linears = linears
        self._held_out_tokens = len(held_out) * shape[1]
        self._candidates = candidates
        self._workers = workers
        moments = {name: Moments.zeros(linear.in_features) for name, linear in linears.items()}
        self._collecting = Collecting(moments, held_out, workers, kept=KEPT)

    def add(self, name: str, batch: slice, x: Tensor, weights: Tensor) -> None:
        """Collect H."""
        self._collecting.add(name, batch, x, weights)

    def done(self, channels: dict[str, Tensor]) -> dict[str, Any]:
        """Predict, tensor after tensor; their H go. The predictions are as ``losses_to_json`` gives them."""
        moments = self._collecting.done()

        def predict(name: str) -> dict[str, TypeLoss]:
            return predict_tensor(
                self._linears[name].weight.numpy(),
                moments.pop(name),
                channels[name].numpy(),
                self._held_out_tokens,
                self._candidates.get(name, ()),
            )

        # The longest work first, so that no worker is left with it at the end.
        names = sorted(self._linears, key=lambda name: -self._linears[name].in_features)
        return losses_to_json(dict(zip(names, self._workers.map(predict, names), strict=True)))


def losses_to_json(losses: Losses) -> dict[str, Any]:
    """Predictions as JSON values."""
    return {name: {kind: asdict(loss) for kind, loss in by_type.items()} for name, by_type in losses.items()}


def losses_from_json(values: dict[str, Any]) -> Losses:
    """Predictions from ``losses_to_json``."""
    return {name: {kind: TypeLoss(**loss) for kind, loss in by_type.items()} for name, by_type in values.items()}


def predict_outer(
    source: Source,
    moments: Mapping[str, tuple[Moments, Floats]],
    shape: tuple[int, ...],
    candidates: Mapping[str, Sequence[str]],
) -> Losses:
    """Predict the losses of head and embedding.

    Args:
        source: of the weights.
        moments: of these matrices, as ``outer_moments`` gives them.
        shape: of the calibration tokens, ``(n, T)``.
        candidates: types to try by tensor name.
    """
    from .rounding.factor import factorise

    held_out_tokens = len(held_out_sequences(shape[0])) * shape[1]
    losses = {}
    for name, (found, channels) in moments.items():
        # A copy, for these moments are needed again to round with.
        factor = factorise(found.learned, DAMPING)
        types = candidates.get(name, ())
        losses[name] = predict_tensor(source.read(name), found, channels, held_out_tokens, types, factor)
    return losses


def predict_tensor(
    matrix: Floats,
    moments: Moments,
    channels: Floats,
    held_out_tokens: float,
    types: Sequence[str],
    factor: Factor | None = None,
) -> dict[str, TypeLoss]:
    """Predicted losses of one tensor, by type.

    Args:
        matrix: float32 ``(rows, columns)``.
        moments: of its inputs; unless ``factor`` is given, the memory of their H is taken for one.
        channels: relative energy of the gradient at each row, ``(rows,)``, mean 1.
        held_out_tokens: how many tokens ``moments.held_out`` is of.
        types: candidates.
        factor: of the damped H of the tokens to learn from.
    """
    from .rounding.factor import factorise

    if not types:
        return {}
    factor = factor or factorise(moments.learned, DAMPING, in_place=True)
    rows, counts = sample_rows(channels)
    sample = np.ascontiguousarray(matrix[rows])
    held_out, importance = moments.held_out.T, importance_of(factor.diagonal.numpy())

    def loss(values: Floats) -> float:
        outputs = (sample - values) @ held_out
        return 0.5 * float(np.einsum("ij,ij->i", outputs, outputs) @ counts) / held_out_tokens

    nearest = {
        name: loss(ggml.dequantize(ggml.encode(sample, name, importance, 1), name, sample.shape)) for name in types
    }
    anchors = sorted((name for name in types if name in LAYOUTS), key=lambda name: TYPES[name].bits)
    gains = dict[int, float]()
    for name in (anchors[0], anchors[len(anchors) // 2]) if anchors else ():
        if TYPES[name].bits not in gains:
            reached = loss(round_by_factor(sample, factor, name, threads=1).values)
            gains[TYPES[name].bits] = reached / max(nearest[name], 1e-30)
    found = {}
    for name in types:
        gain = 1.0
        if name in LAYOUTS:
            gain = float(np.interp(TYPES[name].bits, list(gains), list(gains.values())))
        rounding = "feedback" if gain < 1 else "imatrix"
        found[name] = TypeLoss(nearest[name] * min(gain, 1.0), nearest[name], rounding)
    return found


def sample_rows(channels: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows to stand for a tensor, and how much the error of each counts.

    Half of them are those that count most, each for itself; the others are spread evenly over the rest and stand for
    all of it.
    """
    if len(channels) <= ROWS:
        return np.arange(len(channels)), channels
    order = np.argsort(-channels, kind="stable")
    top, rest = order[: ROWS // 2], np.sort(order[ROWS // 2 :])
    spread = rest[np.linspace(0, len(rest) - 1, ROWS - len(top), dtype=np.int64)]
    scale = channels[rest].sum() / max(float(channels[spread].sum()), 1e-30)
    counts = np.concatenate([channels[top], channels[spread] * scale]).astype(np.float32)
    return np.concatenate([top, spread]), counts


def outer_moments(model: BlockModel, hidden: Tensor, weights: LossWeights) -> dict[str, tuple[Moments, Floats]]:
    """H and row energies of head and embedding; ``hidden`` is the last block's output ``(n, T, d)``.

    A row of the embedding errs only where its token is read; that error meets the same gradient column by column,
    whatever the other rows do, so its H is diagonal and its rows count by their use. A tied matrix has both H; each
    row has its own mixture of them, and the mean over the rows stands for it.
    """
    head = weighted_moments((model.final_norm(part) for part in hidden), weights.tokens[model.head_name])
    uses = weights.embedding / max(float(weights.embedding.mean()), 1e-30)
    diagonal = weights.embedding_columns * weights.embedding.mean()
    share = len(held_out_sequences(hidden.shape[0])) / hidden.shape[0]
    embedding = Moments((diagonal * (1 - share)).diag().numpy(), (diagonal * share).sqrt().diag().numpy())
    if model.head_name == "token_embd.weight":
        both = Moments(head.learned + embedding.learned, np.concatenate([head.held_out, embedding.held_out]))
        # The part of the summed squared gradient that each role brings.
        part = head.trace / both.trace
        channels = part * weights.channels[model.head_name] + (1 - part) * uses
        return {model.head_name: (both, channels.numpy())}
    return {
        "token_embd.weight": (embedding, uses.numpy()),
        model.head_name: (head, weights.channels[model.head_name].numpy()),
    }
