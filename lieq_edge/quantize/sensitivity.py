"""Predict what each type would do to the loss, tensor by tensor, before anything is decided.

The prediction is ``1/2 tr(E H E^T)`` a token, in nats: E the rounding error, H the loss-weighted second moment of the
inputs (``measure.loss_weights``), each row counted with its output channel's share of the gradient. E is that of a
sample of rows. It is learned on some sequences and judged on others, as the file will be.

What error feedback gains is measured with two of the types and taken to change evenly with the bits between them; it
costs much more than encoding, and hardly differs from type to type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..ggml_types import TYPES
from . import ggml
from .codec import LAYOUTS
from .collecting import Collecting
from .feedback import round_by_factor
from .statistics import Moments, held_out_sequences, importance_of, weighted_moments

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..measure.loss_weights import LossWeights
    from ..measure.model import BlockModel
    from ..source.base import Source
    from .rounding.factor import Factor
    from .workers import Workers

Floats = npt.NDArray[np.float32]

ROWS = 96
"""Rows of a tensor that are rounded to predict its losses."""

DAMPINGS = (0.5, 1.0, 2.0)
"""Dampings of H that are tried; the held-out error chooses, tensor by tensor.

Held-out sequences are of the calibration's own kind, and often ask for less than text of another kind does.
"""

NEAR = 1.05
"""Held-out losses that differ by less count as equal, and the larger damping is taken."""


@dataclass(frozen=True)
class TypeLoss:
    """One type for one tensor.

    Attributes:
        loss: predicted rise of the loss, nats a token, with the better rounding.
        nearest_loss: the same with importance rounding.
        rounding: ``feedback``, or ``imatrix`` where that has the smaller held-out error.
        damping: of the feedback.
    """

    loss: float
    nearest_loss: float
    rounding: str
    damping: float


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
        self._collecting = Collecting(moments, held_out, workers)

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
    held_out_tokens = len(held_out_sequences(shape[0])) * shape[1]
    return {
        name: predict_tensor(source.read(name), found, channels, held_out_tokens, candidates.get(name, ()))
        for name, (found, channels) in moments.items()
    }


def predict_tensor(
    matrix: Floats,
    moments: Moments,
    channels: Floats,
    held_out_tokens: float,
    types: Sequence[str],
) -> dict[str, TypeLoss]:
    """Predicted losses of one tensor, by type.

    Args:
        matrix: float32 ``(rows, columns)``.
        moments: of its inputs.
        channels: relative energy of the gradient at each row, ``(rows,)``, mean 1.
        held_out_tokens: how many tokens ``moments.held_out`` is over.
        types: candidates.
    """
    rows, counts = sample_rows(channels)
    sample = np.ascontiguousarray(matrix[rows])
    learned, held_out = moments.learned, moments.held_out
    importance = importance_of(learned)

    def loss(values: Floats, some: slice = slice(None)) -> float:
        error = sample[some] - values
        return 0.5 * float(np.einsum("ij,ij->i", error @ held_out, error) @ counts[some]) / held_out_tokens

    nearest = {
        name: loss(ggml.dequantize(ggml.encode(sample, name, importance, 1), name, sample.shape)) for name in types
    }
    anchors = sorted((name for name in types if name in LAYOUTS), key=lambda name: TYPES[name].bits)
    damping, gains = DAMPINGS[0], dict[int, float]()
    if anchors:
        middle = anchors[len(anchors) // 2]
        # Half of the rows tell dampings apart.
        some = slice(None, None, 2)
        factor = best_factor(sample[some], learned, middle, lambda values: loss(values, some))
        damping = factor.damping
        for name in (anchors[0], middle):
            if TYPES[name].bits not in gains:
                reached = loss(round_by_factor(sample, factor, name, sweeps=1, threads=1).values)
                gains[TYPES[name].bits] = reached / max(nearest[name], 1e-30)
    found = {}
    for name in types:
        gain = 1.0
        if name in LAYOUTS:
            gain = float(np.interp(TYPES[name].bits, list(gains), list(gains.values())))
        rounding = "feedback" if gain < 1 else "imatrix"
        found[name] = TypeLoss(nearest[name] * min(gain, 1.0), nearest[name], rounding, damping)
    return found


def best_factor(sample: Floats, learned: Floats, type_name: str, loss: Callable[[Floats], float]) -> Factor:
    """``learned`` with the damping out of ``DAMPINGS`` that serves best, factorised.

    That is the largest one whose loss is within ``NEAR`` of the least. With little damping errors gather in columns
    that the calibration hardly uses; one that another text does use then ruins the layer, and no held-out sequence
    tells.

    Rounding decides, and not what noise in its place would cost: with little damping weights are driven out of the
    range of their codes, which noise does not know.

    Args:
        sample: rows ``(rows, columns)`` to round.
        learned: H.
        type_name: to round them to.
        loss: of rounded rows, judged on what H has not seen.
    """
    from .rounding.factor import factorise

    factor, reached = None, {}
    for damping in DAMPINGS:
        del factor  # one is as large as H
        factor = factorise(learned, damping)
        # Without searching scales, which hardly depend on the damping and take most of the time.
        rounded = round_by_factor(sample, factor, type_name, search=False, sweeps=0, threads=1)
        reached[damping] = loss(rounded.values)
    near = [damping for damping in DAMPINGS if reached[damping] <= NEAR * min(reached.values())]
    best = max(near, default=DAMPINGS[-1])
    assert factor is not None
    return factor if best == DAMPINGS[-1] else factorise(learned, best)


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
    embedding = Moments((diagonal * (1 - share)).diag().numpy(), (diagonal * share).diag().numpy())
    if model.head_name == "token_embd.weight":
        both = Moments(head.learned + embedding.learned, head.held_out + embedding.held_out)
        # The part of the summed squared gradient that each role brings.
        part = head.trace / both.trace
        channels = part * weights.channels[model.head_name] + (1 - part) * uses
        return {model.head_name: (both, channels.numpy())}
    return {
        "token_embd.weight": (embedding, uses.numpy()),
        model.head_name: (head, weights.channels[model.head_name].numpy()),
    }
