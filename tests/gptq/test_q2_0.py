"""Q2_0 with a searched scale against ggml's own encoder and against an exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest

from lieq_edge.gguf.blocks import unpack
from lieq_edge.gptq.q2_0 import encode_q2_0, nearest_codes, search_grid
from lieq_edge.llama import encoders as ggml

pytestmark = pytest.mark.skipif(not ggml.supports("Q2_0"), reason="ggml lacks the type")


def test_beats_ggml_by_far() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(32, 256)).astype(np.float32)
    ours = unpack(encode_q2_0(weights), "Q2_0").values()
    theirs = unpack(ggml.encode(weights, "Q2_0"), "Q2_0").values()
    assert np.mean((ours - weights) ** 2) < 0.4 * np.mean((theirs - weights) ** 2)


def test_is_within_one_percent_of_an_exhaustive_search() -> None:
    rng = np.random.default_rng(1)
    weights = rng.standard_t(4, (20, 64)).astype(np.float32)
    importance = rng.exponential(size=64).astype(np.float32)
    emphasis = importance * np.sqrt(np.mean(weights**2, axis=1, keepdims=True) + weights**2)

    def error(values: np.ndarray) -> np.ndarray:
        return np.sum(emphasis * (values - weights) ** 2, axis=1)

    best = np.full(20, np.inf)
    for share in np.linspace(-1, 1, 2001):
        d = (np.abs(weights).max(axis=1, keepdims=True) * share).astype(np.float32)
        best = np.minimum(best, error((nearest_codes(weights, d) - 1.0) * d))
    ours = error(search_grid(weights, importance).values())
    assert np.all(ours <= 1.05 * best)
    assert ours.sum() <= 1.01 * best.sum()


def test_importance_pulls_the_error_away_from_heavy_columns() -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(16, 64)).astype(np.float32)
    importance = np.ones(64, np.float32)
    importance[:8] = 100
    even = (search_grid(weights).values() - weights)[:, :8]
    heavy = (search_grid(weights, importance).values() - weights)[:, :8]
    assert np.mean(heavy**2) < 0.8 * np.mean(even**2)


def test_grid_values_are_kept_exactly() -> None:
    rng = np.random.default_rng(3)
    weights = (0.25 * rng.integers(-1, 3, (4, 128))).astype(np.float32)
    weights[0, :64] = 0
    assert np.array_equal(unpack(encode_q2_0(weights), "Q2_0").values(), weights)
    assert np.array_equal(unpack(encode_q2_0(-weights), "Q2_0").values(), -weights)
