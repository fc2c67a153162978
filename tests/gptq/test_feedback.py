"""Error feedback: analytic cases, exactness of the bytes, and hard matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lieq_edge.errors import InputError
from lieq_edge.gguf.blocks import LAYOUTS, unpack
from lieq_edge.gguf.types import TYPES
from lieq_edge.gptq.factor import factorise
from lieq_edge.gptq.feedback import round_with_feedback
from lieq_edge.gptq.q2_0 import search_grid
from lieq_edge.llama import encoders as ggml

TYPE_NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(not ggml.supports(name), reason="ggml lacks the type"))
    for name in LAYOUTS
]


def layer(rows: int, columns: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Weights, and H of correlated inputs."""
    rng = np.random.default_rng(seed)
    weights = (rng.standard_t(5, (rows, columns)) * 0.05).astype(np.float32)
    inputs = rng.normal(size=(4 * columns, columns // 8)) @ rng.normal(size=(columns // 8, columns))
    inputs += 0.5 * rng.normal(size=inputs.shape)
    return weights, inputs.T @ inputs / len(inputs)


def error(weights: npt.NDArray[np.float32], values: npt.NDArray[np.float32], hessian: npt.NDArray) -> float:
    """tr(E H E^T)."""
    difference = (weights - values).astype(np.float64)
    return float(np.sum(difference @ hessian * difference))


def by_importance(
    weights: npt.NDArray[np.float32], hessian: npt.NDArray[np.float64], type_name: str
) -> npt.NDArray[np.float32]:
    importance = np.diag(hessian).astype(np.float32)
    if type_name == "Q2_0":
        return search_grid(weights, importance).values()
    return unpack(ggml.encode(weights, type_name, importance), type_name).values()


@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_bytes_decode_to_the_values_and_beat_importance(type_name: str) -> None:
    weights, hessian = layer(24, 512)
    rounding = round_with_feedback(weights, hessian, type_name, damping=0.01)
    assert rounding.packed.shape == (24, TYPES[type_name].nbytes((1, 512)))
    decoded = unpack(rounding.packed, type_name).values()
    assert np.array_equal(decoded.view(np.uint32), rounding.values.view(np.uint32))
    assert rounding.floor == 0.0
    plain = by_importance(weights, hessian, type_name)
    assert error(weights, rounding.values, hessian) < 0.8 * error(weights, plain, hessian)


SCALAR_NAMES = [case for case in TYPE_NAMES if LAYOUTS[str(case.values[0])].book is None]


@pytest.mark.parametrize("type_name", SCALAR_NAMES)
def test_identity_reduces_to_nearest(type_name: str) -> None:
    weights, _ = layer(8, 512)
    rounding = round_with_feedback(weights, np.eye(512), type_name, damping=0.0, search=False, sweeps=0)
    grid = unpack(rounding.packed, type_name)
    layout = grid.layout
    levels = np.array(layout.levels[layout.lowest_code :], np.float32)
    candidates = grid.scales()[:, :, None] * levels
    mins = grid.mins()
    if mins is not None:
        candidates = candidates - mins[:, :, None]
    candidates = np.repeat(candidates, layout.sub, axis=1)
    best = np.abs(candidates - weights[:, :, None]).min(axis=2)
    assert np.allclose(np.abs(rounding.values - weights), best, rtol=1e-4, atol=1e-7)


def test_a_duplicated_column_compensates_for_its_twin() -> None:
    """Of two columns with the same input only the sum matters, which two codes approximate better than one."""
    weights, _ = layer(64, 256, seed=3)
    hessian = np.eye(256)
    hessian[[40, 200], [200, 40]] = 1.0 - 1e-5
    fixed_scales: dict[str, Any] = {"damping": 1e-6, "search": False, "sweeps": 0}
    rounding = round_with_feedback(weights, hessian, "Q3_K", **fixed_scales)
    plain = round_with_feedback(weights, np.eye(256), "Q3_K", **fixed_scales)

    def of_the_sum(values: npt.NDArray[np.float32]) -> float:
        return float(np.mean((values - weights)[:, [40, 200]].sum(axis=1) ** 2))

    assert of_the_sum(rounding.values) < 0.6 * of_the_sum(plain.values)
    others = np.setdiff1d(np.arange(256), [40, 200])
    assert np.array_equal(rounding.values[:, others], plain.values[:, others])


@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_search_and_sweeps_lower_the_error(type_name: str) -> None:
    weights, hessian = layer(24, 512)
    errors = []
    for options in ({"search": False, "sweeps": 0}, {"sweeps": 0}, {"sweeps": 1}, {"sweeps": 2}):
        chosen: dict[str, Any] = {"damping": 0.01, **options}
        errors.append(error(weights, round_with_feedback(weights, hessian, type_name, **chosen).values, hessian))
    # The search is greedy: it may be a little worse, and the sweeps make up for it.
    assert errors[1] < 1.02 * errors[0]
    assert errors[2] < 0.95 * errors[0]
    assert errors[2] < 0.99 * errors[1]
    assert errors[3] < errors[2]


@pytest.mark.parametrize("type_name", ["Q2_K", "Q3_K", "Q4_1", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ2_XS"])
def test_sweeps_never_raise_the_error_of_a_row(type_name: str) -> None:
    weights, hessian = layer(40, 512, seed=11)
    damped = hessian + 0.1 * np.mean(np.diag(hessian)) * np.eye(512)
    rows = []
    for sweeps in (0, 1, 2):
        values = round_with_feedback(weights, hessian, type_name, damping=0.1, sweeps=sweeps).values
        difference = (weights - values).astype(np.float64)
        rows.append(np.sum(difference @ damped * difference, axis=1))
    assert np.all(rows[1] <= rows[0] * (1 + 1e-4))
    assert np.all(rows[2] <= rows[1] * (1 + 1e-4))


def test_singular_matrix_raises_the_floor_and_says_so() -> None:
    weights, _ = layer(8, 256)
    few = np.random.default_rng(5).normal(size=(20, 256))
    rounding = round_with_feedback(weights, few.T @ few, "Q4_K", damping=0.0)
    assert 0 < rounding.floor < 0.1
    assert np.all(np.isfinite(rounding.values))


def test_dead_columns_are_rounded_to_nearest_and_disturb_nothing() -> None:
    weights, hessian = layer(8, 512)
    hessian[100:140] = 0
    hessian[:, 100:140] = 0
    rounding = round_with_feedback(weights, hessian, "Q2_K", damping=0.1)
    assert np.all(np.isfinite(rounding.values))
    dead = (rounding.values - weights)[:, 100:140]
    assert np.mean(dead**2) < np.mean(weights**2)


def test_same_input_same_bytes() -> None:
    weights, hessian = layer(2100, 256)
    first = round_with_feedback(weights, hessian, "Q3_K", threads=1)
    second = round_with_feedback(weights, hessian, "Q3_K", threads=2)
    assert np.array_equal(first.packed, second.packed)


def test_bad_input_is_refused() -> None:
    weights, hessian = layer(4, 256)
    with pytest.raises(InputError, match="rows of 250"):
        round_with_feedback(weights[:, :250], hessian[:250, :250], "Q4_K")
    with pytest.raises(InputError, match="rows of 250"):
        round_with_feedback(weights[:, :250], hessian[:250, :250], "IQ2_XS")
    with pytest.raises(InputError, match="F16"):
        round_with_feedback(weights, hessian, "F16")
    with pytest.raises(InputError, match="not positive semi-definite"):
        round_with_feedback(weights, -hessian, "Q4_K")
    hessian[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        round_with_feedback(weights, hessian, "Q4_K")


@pytest.mark.parametrize("kind", TYPE_NAMES)
def test_without_inputs_weights_are_rounded_alike_and_zeros_stay(kind: str) -> None:
    weights, hessian = layer(4, 256)
    weights[1] = 0
    rounded = round_with_feedback(weights, np.zeros_like(hessian), kind)
    alike = round_with_feedback(weights, np.eye(256, dtype=np.float32), kind)
    assert np.array_equal(rounded.packed, alike.packed)
    assert not rounded.values[1].any()
    assert np.square(rounded.values - weights).sum() < 0.6 * np.square(weights).sum()


def test_an_all_zero_hessian_is_restored() -> None:
    hessian = np.zeros((64, 64), np.float32)
    factor = factorise(hessian, 1.0, in_place=True)
    right = np.ones((2, 64), np.float32)
    assert np.array_equal(factor.solve(right), right)
    factor.undamp()
    assert not hessian.any()
