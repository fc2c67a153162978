"""H that waits for rounding."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lieq_edge.errors import InputError
from lieq_edge.evidence.loss.hessians import BlockHessians, Correlations
from lieq_edge.store import Run

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


def _kept(run: Run, blocks: int = 1) -> BlockHessians:
    return BlockHessians(run, blocks)


@pytest.mark.parametrize("folder", ["run", None])
def test_what_was_put_is_there(tmp_path: Path, folder: str | None) -> None:
    place = tmp_path / folder if folder else None
    one = Correlations.of(_moments(20))
    with Run(place, lasting=True) as run:
        assert not _kept(run).complete()
        kept = _kept(run)
        kept.put(0, {READERS: one})
        assert kept.complete()
        assert not _kept(run, 2).complete()
        [(readers, found)] = kept.get(0).items()
        assert readers == READERS
        assert np.array_equal(found.matrix(), one.matrix())
    with Run(place, lasting=True) as again:
        assert _kept(again).complete() == (folder is not None)


def test_a_cache_that_is_too_small_leaves_it_to_temporary_files(tmp_path: Path) -> None:
    complaints: list[str] = []
    with Run(tmp_path / "run", complaints.append, limit=1000, lasting=True) as run:
        kept = _kept(run)
        kept.put(0, {READERS: Correlations.of(_moments(20))})
        assert list(kept.get(0)) == [READERS]
        assert kept.complete()
    assert len(complaints) == 1
    assert not (tmp_path / "run").exists()


def test_the_space_for_all_blocks_is_asked_for_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    one = Correlations.of(_moments(20))
    with Run(None) as run:
        BlockHessians(run, 2).put(0, {READERS: one})
        with pytest.raises(InputError, match=r"10\.0 kB free"):
            BlockHessians(run, 100).put(0, {READERS: one})


def test_what_is_gone_is_told() -> None:
    with Run(None) as run, pytest.raises(InputError, match="block 3 are gone"):
        BlockHessians(run, 4).get(3)
