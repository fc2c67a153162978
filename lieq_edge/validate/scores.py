"""Scores of logits token by token: surprise at the true token, and distance from a reference's prediction."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..llama.engine import Logits, Tokens

Scores = npt.NDArray[np.float64]

CHUNK = 1 << 16
"""Logits worked on at once: small enough that every temporary stays in the cache."""


@dataclass(frozen=True)
class Comparison:
    """Scores of ``n`` predictions under a model and its reference.

    Attributes:
        nll: ``(n,)`` -ln p of the true token under the model.
        reference_nll: the same under the reference.
        kld: ``(n,)`` KL(reference || model), nats.
        same_top: ``(n,)`` True where both rank the same token first.
    """

    nll: Scores
    reference_nll: Scores
    kld: Scores
    same_top: npt.NDArray[np.bool_]


def _by_rows(work: Callable[[slice], None], logits: Logits, pool: Executor) -> None:
    """Call ``work`` on slices of the rows, in the threads of ``pool`` (numpy frees the interpreter lock)."""
    rows, columns = logits.shape
    step = max(1, CHUNK // columns)
    list(pool.map(work, (slice(start, start + step) for start in range(0, rows, step))))


def _shift_and_exp(logits: Logits) -> tuple[Logits, Logits, Scores]:
    """Logits less their maximum, exp of these, and ln of the sum of those (in float64)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    return shifted, exponentials, np.log(exponentials.sum(axis=1, dtype=np.float64))


def _pick(values: Logits, targets: Tokens) -> Scores:
    return np.take_along_axis(values, targets[:, None], axis=1)[:, 0].astype(np.float64)


def negative_log_likelihood(logits: Logits, targets: Tokens, pool: Executor) -> Scores:
    """-ln softmax(logits)[target] of each row.

    Args:
        logits: ``(n, vocabulary)``.
        targets: ``(n,)`` ids of the true tokens.
        pool: threads to share the rows among.
    """
    nll = np.empty(len(targets))

    def work(rows: slice) -> None:
        shifted, _, log_sum = _shift_and_exp(logits[rows])
        nll[rows] = log_sum - _pick(shifted, targets[rows])

    _by_rows(work, logits, pool)
    return nll


def compare(reference: Logits, logits: Logits, targets: Tokens, pool: Executor) -> Comparison:
    """Score two models' logits ``(n, vocabulary)`` for the same predictions.

    KL = sum_i p_i (ln p_i - ln q_i), p the reference, over the whole vocabulary (llama-perplexity drops
    reference probabilities below e^-16 and stores the others in 16 bits). Rounding can make the sum of two
    equal distributions negative by 1e-9 or so; it is cut at 0.
    """
    rows = len(logits)
    nll, reference_nll, kld = np.empty(rows), np.empty(rows), np.empty(rows)
    same = np.empty(rows, dtype=np.bool_)

    def work(part: slice) -> None:
        p, p_exp, p_log_sum = _shift_and_exp(reference[part])
        q, _, q_log_sum = _shift_and_exp(logits[part])
        reference_nll[part] = p_log_sum - _pick(p, targets[part])
        nll[part] = q_log_sum - _pick(q, targets[part])
        same[part] = p.argmax(axis=1) == q.argmax(axis=1)
        p_exp *= np.subtract(p, q, out=q)
        cross = p_exp.sum(axis=1, dtype=np.float64) / np.exp(p_log_sum)
        kld[part] = np.maximum(cross - p_log_sum + q_log_sum, 0.0)

    _by_rows(work, logits, pool)
    return Comparison(nll, reference_nll, kld, same)
