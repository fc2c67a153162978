"""Scores of hand-made logits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest

from lieq_edge.validate.perplexity import mean_and_error
from lieq_edge.validate.scores import compare, negative_log_likelihood


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def log(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, np.float32))


def test_likelihood_of_a_known_distribution(pool: Executor) -> None:
    logits = np.stack([log(0.5, 0.25, 0.25), log(0.5, 0.25, 0.25) + 40])
    nll = negative_log_likelihood(logits, np.array([0, 2], np.int32), pool)
    assert nll == pytest.approx([np.log(2), np.log(4)], abs=1e-5)


def test_uniform_logits_cost_the_log_of_the_vocabulary(pool: Executor) -> None:
    nll = negative_log_likelihood(np.zeros((3, 1000), np.float32), np.array([0, 5, 999], np.int32), pool)
    assert nll == pytest.approx([np.log(1000)] * 3)


def test_divergence_of_two_known_distributions(pool: Executor) -> None:
    p, q = log(0.5, 0.5), log(0.25, 0.75)
    result = compare(p[None], q[None], np.array([1], np.int32), pool)
    assert result.kld[0] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), abs=1e-6)
    assert result.reference_nll[0] == pytest.approx(np.log(2))
    assert result.nll[0] == pytest.approx(-np.log(0.75))
    # Of equal logits the first counts as the top one.
    assert not result.same_top[0]


def test_divergence_has_a_direction(pool: Executor) -> None:
    p, q, target = log(0.9, 0.1)[None], log(0.5, 0.5)[None], np.array([0], np.int32)
    there, back = compare(p, q, target, pool).kld[0], compare(q, p, target, pool).kld[0]
    assert there == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), abs=1e-6)
    assert back == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(5), abs=1e-6)


def test_a_shift_of_all_logits_changes_nothing(pool: Executor) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((70, 5000)).astype(np.float32)
    targets = rng.integers(0, 5000, 70).astype(np.int32)
    result = compare(logits, logits + np.float32(7), targets, pool)
    assert result.kld.max() < 1e-6
    assert result.same_top.all()
    assert result.nll == pytest.approx(result.reference_nll, abs=1e-5)


def test_many_rows_match_float64(pool: Executor) -> None:
    rng = np.random.default_rng(1)
    p = (3 * rng.standard_normal((300, 700))).astype(np.float32)
    q = p + 0.3 * rng.standard_normal(p.shape).astype(np.float32)
    targets = rng.integers(0, 700, 300).astype(np.int32)
    result = compare(p, q, targets, pool)
    exact_p, exact_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (p.astype(float), q.astype(float)))
    assert result.kld == pytest.approx((np.exp(exact_p) * (exact_p - exact_q)).sum(1), abs=1e-6)
    assert result.nll == pytest.approx(-exact_q[np.arange(300), targets], abs=1e-5)
    assert result.nll == pytest.approx(negative_log_likelihood(q, targets, pool))
    assert (result.same_top == (p.argmax(1) == q.argmax(1))).all()


def test_infinite_logits_are_told_apart_from_numbers(pool: Executor) -> None:
    logits = np.zeros((1, 4), np.float32)
    logits[0, 1] = np.nan
    assert not np.isfinite(negative_log_likelihood(logits, np.array([0], np.int32), pool)).all()


def test_standard_error_is_that_of_the_mean() -> None:
    mean, error = mean_and_error(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean == 2.5
    assert error == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
