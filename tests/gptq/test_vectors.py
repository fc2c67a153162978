"""Rounding of vectors: the best point of all, with feedback from each vector to the next."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieq_edge.gguf.blocks import LAYOUTS
from lieq_edge.gguf.blocks.books import Book
from lieq_edge.gptq.feedback import round_with_feedback
from lieq_edge.gptq.vectors import Tables, round_vectors
from lieq_edge.llama.encoders import dequantize, encode

Floats = npt.NDArray[np.float32]

BOOKS = {name: layout.book for name, layout in LAYOUTS.items() if layout.book is not None}


def sub_block(type_name: str, seed: int, rows: int = 3) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights, targets, M and variances of a sub-block."""
    rng = np.random.default_rng(seed)
    sub = LAYOUTS[type_name].sub
    weights = rng.normal(size=(sub, rows)).astype(np.float32)
    targets = weights + 0.1 * rng.normal(size=(sub, rows)).astype(np.float32)
    feedback = np.eye(sub, dtype=np.float32) + np.triu(0.15 * rng.normal(size=(sub, sub)), 1).astype(np.float32)
    return weights, targets, feedback, rng.uniform(0.5, 2, sub).astype(np.float32)


def least_cost(book: Book, target: Floats, variances: Floats, scale: float) -> float:
    """By trying every point with all signs, unit by unit."""
    points = np.array(book.levels[len(book.magnitudes) :])[book.points]
    total = 0.0
    for start in range(0, len(target), 8):
        # Least costs with an even and with an odd number of minus signs.
        even, odd = 0.0, np.inf
        for first in range(start, start + 8, book.size):
            part = slice(first, first + book.size)
            costs = [np.inf, np.inf]
            for signs in product((1, -1), repeat=book.size):
                missed = target[part] - scale * points * np.array(signs)
                minus = sum(sign < 0 for sign in signs) % 2
                costs[minus] = min(costs[minus], float((variances[part] * missed**2).sum(1).min()))
            even, odd = min(even + costs[0], odd + costs[1]), min(even + costs[1], odd + costs[0])
        total += min(even, odd) if book.free_signs else even
    return total


@pytest.mark.parametrize("type_name", BOOKS)
def test_without_correlations_the_nearest_vector_is_found(type_name: str) -> None:
    weights, targets, feedback, variances = sub_block(type_name, 0)
    alone = np.eye(len(feedback), dtype=np.float32)
    scales = np.array([[0.3, -0.3, 0.1], [0.4, 0.4, -0.2]], np.float32)
    _, _, picks, costs = round_vectors(weights, targets, alone, variances, scales, tables=Tables.of(BOOKS[type_name]))
    for row in range(weights.shape[1]):
        found = [least_cost(BOOKS[type_name], targets[:, row], variances, scale) for scale in scales[:, row]]
        assert picks[row] == np.argmin(found)
        assert costs[row] == pytest.approx(min(found), rel=1e-4)


@pytest.mark.parametrize("type_name", BOOKS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 70))
def test_costs_are_those_of_the_columns_one_after_the_other(type_name: str, seed: int, rows: int) -> None:
    """The same sum as for scalar types, and every unit can be stored."""
    weights, targets, feedback, variances = sub_block(type_name, seed, rows)
    scales = np.random.default_rng(seed).normal(size=(2, rows)).astype(np.float32)
    book = BOOKS[type_name]
    levels, errors, picks, costs = round_vectors(weights, targets, feedback, variances, scales, tables=Tables.of(book))
    values = levels * scales[picks, np.arange(rows)]
    assert np.array_equal(errors, weights - values)
    expected = np.zeros(rows)
    for column in range(len(weights)):
        expected += variances[column] * (targets[column] - values[column]) ** 2
        targets[column:] += (
            np.outer(feedback[column, column:], errors[column]) * (np.arange(column, len(weights)) > column)[:, None]
        )
    np.testing.assert_allclose(costs, expected, rtol=1e-3, atol=1e-5)
    codes = np.searchsorted(np.array(book.levels, np.float32), levels).astype(np.uint8)
    assert np.array_equal(np.array(book.levels, np.float32)[codes], levels)
    words = book.words(np.ascontiguousarray(codes.T), np.zeros((rows, 1), np.uint8))
    assert np.array_equal(book.codes(words), codes.T)


@pytest.mark.parametrize("type_name", BOOKS)
def test_a_row_does_not_depend_on_the_rows_beside_it(type_name: str) -> None:
    weights, targets, feedback, variances = sub_block(type_name, 5, 70)
    scales = np.full((1, 70), 0.3, np.float32)
    tables = Tables.of(BOOKS[type_name])
    together = round_vectors(weights, targets, feedback, variances, scales, tables=tables)[0]
    one = slice(40, 41)
    alone = round_vectors(
        weights[:, one].copy(), targets[:, one].copy(), feedback, variances, scales[:, one], tables=tables
    )
    assert np.array_equal(together[:, one], alone[0])


@pytest.mark.parametrize("type_name", [*BOOKS, "IQ4_XS", "IQ4_NL"])
def test_ggml_decodes_what_was_meant(type_name: str) -> None:
    rng = np.random.default_rng(6)
    weights = (rng.standard_t(5, (6, 512)) * 0.05).astype(np.float32)
    inputs = rng.normal(size=(1024, 64)) @ rng.normal(size=(64, 512)) + rng.normal(size=(1024, 512))
    hessian = inputs.T @ inputs
    rounded = round_with_feedback(weights, hessian, type_name, damping=0.05)
    assert np.array_equal(rounded.values, dequantize(rounded.packed, type_name, weights.shape))

    def error(values: Floats) -> float:
        return float(np.sum((weights - values) @ hessian * (weights - values)))

    nearest = dequantize(encode(weights, type_name, np.diag(hessian).astype(np.float32)), type_name, weights.shape)
    assert error(rounded.values) < 0.85 * error(nearest)
