"""H that waits for rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lieq_edge.cache import NO_CACHE, Run, open_cache
from lieq_edge.errors import InputError
from lieq_edge.quantize.kept_moments import Correlations, KeptMoments

READERS = ("blk.0.attn_q.weight", "blk.0.attn_k.weight")


def _moments(columns: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * columns, columns)) @ rng.normal(size=(columns, columns))
    x *= np.exp(4 * rng.normal(size=columns))  # some columns are thousands of times as large as others
    return (x.T @ x).astype(np.float32)


@pytest.mark.parametrize("columns", [1, 7, 256, 300, 700])
def test_correlations_are_off_by_little_whatever_the_scale_of_a_column(columns: int) -> None:
    matrix = _moments(columns)
    found = Correlations.of(matrix).matrix()
    assert np.array_equal(found, found.T)
    assert np.array_equal(found.diagonal(), matrix.diagonal())
    scales = np.sqrt(matrix.diagonal())
    assert np.abs((found - matrix) / scales / scales[:, None]).max() < 5e-4


def test_columns_without_any_input_stay_so() -> None:
    matrix = _moments(300)
    matrix[270], matrix[:, 270], matrix[5], matrix[:, 5] = 0, 0, 0, 0
    found = Correlations.of(matrix).matrix()
    assert np.isfinite(found).all()
    assert not found[[5, 270]].any()
    assert not found[:, [5, 270]].any()


def test_little_more_than_a_half_is_kept() -> None:
    kept = Correlations.of(_moments(1024))
    assert kept.values.dtype == np.float16
    assert kept.values.size == 1024 * 1024 * 5 / 8


@pytest.mark.parametrize("cached", [True, False])
def test_what_was_put_is_there(tmp_path: Path, cached: bool) -> None:
    cache = open_cache(tmp_path) if cached else NO_CACHE
    one = Correlations.of(_moments(20))
    with Run(None) as waiting:
        kept = KeptMoments(cache, {}, waiting)
        assert not kept.complete(1)
        kept.put(0, {READERS: one})
        assert kept.complete(1)
        assert not kept.complete(2)
        [(readers, found)] = kept.get(0).items()
        assert readers == READERS
        assert np.array_equal(found.matrix(), one.matrix())
        assert KeptMoments(cache, {}, None).complete(1) == cached
        assert not KeptMoments(cache, {"other": 1}, None).complete(1)


def test_a_cache_that_is_too_small_leaves_it_to_temporary_files(tmp_path: Path) -> None:
    with Run(None) as waiting:
        kept = KeptMoments(open_cache(tmp_path, limit=100), {}, waiting)
        kept.put(0, {READERS: Correlations.of(_moments(20))})
        assert list(kept.get(0)) == [READERS]


def test_what_is_gone_is_told() -> None:
    with pytest.raises(InputError, match="block 3 has gone"):
        KeptMoments(NO_CACHE, {}, None).get(3)
