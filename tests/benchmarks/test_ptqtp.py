"""Trit planes reach the errors that are known for Gaussian weights, and a simulated file has the size that it says."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny

from benchmarks.internals import describe
from benchmarks.ptqtp import GROUP, section, simulated, size_of, stored_bytes, trit_planes, write_ptqtp
from lieq_edge import inspect_file, open_source


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(256, 8 * GROUP)).astype(np.float32)


def error(weights: np.ndarray, decoded: np.ndarray) -> float:
    return float(np.linalg.norm(weights - decoded) / np.linalg.norm(weights))


@pytest.mark.parametrize(("rounds", "expected"), [(1, 0.488), (5, 0.203), (10, 0.174), (30, 0.1685)])
def test_gaussian_weights_have_the_known_errors(weights: np.ndarray, rounds: int, expected: float) -> None:
    assert error(weights, trit_planes(weights, rounds)) == pytest.approx(expected, abs=0.001)


def test_a_group_has_nine_values_of_two_scales(weights: np.ndarray) -> None:
    values = np.unique(trit_planes(weights[:1, :GROUP]))
    assert len(values) <= 9
    assert np.allclose(values, -values[::-1])
    # Values are sums of two scales, so that the largest is the sum of the two below it that are no sum themselves.
    levels = sorted(value for value in values if value > 0)
    assert any(np.isclose(levels[-1], a + b) for a in levels for b in levels)


def test_groups_are_independent_and_the_last_may_be_short(weights: np.ndarray) -> None:
    short = weights[:4, : GROUP + 20]
    decoded = trit_planes(short)
    alone = trit_planes(np.ascontiguousarray(short[:, GROUP:]))
    # A group of zeros converges in one round, and does not change another.
    padded = np.concatenate([np.zeros((4, GROUP), np.float32), short], axis=1)
    assert error(short[:, GROUP:], decoded[:, GROUP:]) < 0.2
    np.testing.assert_allclose(decoded[:, GROUP:], alone, atol=1e-3)
    np.testing.assert_allclose(trit_planes(padded)[:, GROUP:], decoded, atol=1e-3)
    assert not trit_planes(padded)[:, :GROUP].any()


def test_bytes_are_those_of_planes_and_scales() -> None:
    assert 8 * stored_bytes((3, 1024), dense=False) == 3 * 1024 * 4.25
    assert 8 * stored_bytes((3, 1280), dense=True) == 3 * 1280 * 3.45
    # 200 columns: two groups, and 50 or 40 bytes a plane.
    assert stored_bytes((2, 200), dense=False) == 2 * (100 + 8)
    assert stored_bytes((2, 200), dense=True) == 2 * (80 + 8)


def test_a_simulated_file(tmp_path: Path) -> None:
    source = open_source(str(tiny.cached_model("llama", hidden=256, intermediate=512, blocks=2)))
    path, plan = tmp_path / "file.gguf", simulated(describe(source))
    write_ptqtp(path, source, plan, {})
    name = "blk.1.ffn_down.weight"
    stored = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    np.testing.assert_array_equal(stored.data, trit_planes(source.read(name)))
    report = inspect_file(path)
    assert report.block_bpw == 32
    assert report.others == {"token_embd.weight": "Q6_K"}
    size, bits = size_of(path, plan, dense=False)
    assert bits == 4.25
    matrices = sum(int(np.prod(t.shape)) for t in plan.tensors if t.name.startswith("blk.") and len(t.shape) == 2)
    assert path.stat().st_size - size == pytest.approx((32 - 4.25) / 8 * matrices)
    assert size_of(path, plan, dense=True)[0] < size


def test_no_rows_make_no_table() -> None:
    assert section([]) == ""
