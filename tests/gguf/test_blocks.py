"""ggml's blocks survive unpacking and packing, and codes decode to the values that the rounding assumes."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize as gguf_dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from lieq_edge.errors import InputError
from lieq_edge.gguf.blocks import LAYOUTS, Grid, layout_of, pack, unpack
from lieq_edge.gguf.blocks.books import Book
from lieq_edge.gguf.types import TYPES
from lieq_edge.llama import encoders as ggml

CASES = [
    pytest.param(name, marks=pytest.mark.skipif(not ggml.supports(name), reason="ggml lacks the type"))
    for name in LAYOUTS
]


def decode(packed: npt.NDArray[np.uint8], type_name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """By gguf's reader, except the one type that it does not have."""
    if type_name == "Q2_0":
        return ggml.dequantize(packed, type_name, shape)
    return gguf_dequantize(packed, gguf.GGMLQuantizationType[type_name])


def random_grid(type_name: str, rows: int, blocks: int, seed: int) -> Grid:
    """Arbitrary codes, scales and mins, none of them from an encoder."""
    rng = np.random.default_rng(seed)
    layout = LAYOUTS[type_name]
    columns = blocks * layout.block
    subs = columns // layout.sub

    def halves() -> npt.NDArray[np.float16]:
        return (rng.normal(size=(rows, blocks)) * 10.0 ** rng.integers(-6, 3)).astype(np.float16)

    def integers() -> npt.NDArray[np.int16]:
        bits = layout.scales
        assert bits is not None
        numbers = rng.integers(0, (bits.highest - bits.lowest) // bits.step + 1, (rows, subs))
        return (bits.lowest + bits.step * numbers).astype(np.int16)

    if layout.book is None:
        codes = rng.integers(layout.lowest_code, len(layout.levels), (rows, columns)).astype(np.uint8)
    else:
        codes = random_vectors(layout.book, rng, (rows, columns))
    return Grid(
        type_name,
        codes,
        halves(),
        halves() if layout.m is not None else None,
        integers() if layout.scales is not None else None,
        integers() if layout.scales is not None and layout.m is not None else None,
    )


def random_vectors(book: Book, rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Codes of arbitrary points and signs of a codebook."""
    count = len(book.magnitudes)
    magnitudes = book.points[rng.integers(0, len(book.points), (shape[0], shape[1] // book.size))].reshape(shape)
    minus = rng.random(shape) < 0.5
    if not book.free_signs:
        minus[:, 7::8] = minus.reshape(shape[0], -1, 8)[:, :, :7].sum(2) % 2
    return np.where(minus, count - 1 - magnitudes, count + magnitudes).astype(np.uint8)


@pytest.mark.parametrize("type_name", CASES)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 4),
    blocks=st.integers(1, 3),
    spread=st.sampled_from([0.0, 1e-6, 0.03, 1.0, 300.0]),
    shift=st.sampled_from([0.0, -2.0, 2.0]),
    weighted=st.booleans(),
)
def test_bytes_of_the_encoder_survive(
    type_name: str, seed: int, rows: int, blocks: int, spread: float, shift: float, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    columns = blocks * TYPES[type_name].block
    weights = (rng.standard_t(3, (rows, columns)) * spread + shift * spread).astype(np.float32)
    weights[:, rng.random(columns) < 0.1] = 0
    importance = rng.exponential(size=columns).astype(np.float32)
    needed = TYPES[type_name].needs_importance
    packed = ggml.encode(weights, type_name, importance if weighted or needed else None, 1)
    grid = unpack(packed, type_name)
    assert np.array_equal(pack(grid), packed)
    expected = decode(packed, type_name, weights.shape)
    assert np.array_equal(grid.values().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("type_name", CASES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4), blocks=st.integers(1, 3))
def test_arbitrary_grids_decode_to_their_values(type_name: str, seed: int, rows: int, blocks: int) -> None:
    grid = random_grid(type_name, rows, blocks, seed)
    packed = pack(grid)
    assert packed.shape == (rows, blocks * TYPES[type_name].block_bytes)
    expected = decode(packed, type_name, (rows, blocks * TYPES[type_name].block))
    assert np.array_equal(grid.values().view(np.uint32), expected.view(np.uint32))
    again = unpack(packed, type_name)
    assert np.array_equal(again.codes, grid.codes)
    assert np.array_equal(pack(again), packed)


@pytest.mark.parametrize("type_name", CASES)
def test_any_bytes_survive(type_name: str) -> None:
    """Every bit of a block belongs to exactly one field."""
    kind = TYPES[type_name]
    packed = np.random.default_rng(1).integers(0, 256, (5, 3 * kind.block_bytes)).astype(np.uint8)
    assert np.array_equal(pack(unpack(packed, type_name)), packed)


def test_a_changed_code_changes_one_weight() -> None:
    grid = random_grid("Q3_K", 2, 2, 7)
    codes = grid.codes.copy()
    codes[1, 300] = (codes[1, 300] + 1) % 8
    changed = unpack(pack(grid.with_codes(codes)), "Q3_K").values() != grid.values()
    assert np.argwhere(changed).tolist() == [[1, 300]]


def test_scale_fields_change_only_their_sub_block() -> None:
    grid = random_grid("Q5_K", 1, 2, 9)
    assert grid.scale_codes is not None
    scale_codes = grid.scale_codes.copy()
    scale_codes[0, 13] = (scale_codes[0, 13] + 1) % 64
    changed = unpack(pack(replace(grid, scale_codes=scale_codes)), "Q5_K").values() != grid.values()
    columns = np.argwhere(changed)[:, 1]
    assert columns.size
    assert set(columns // 32) == {13}


def test_types_without_codes_are_refused() -> None:
    with pytest.raises(InputError, match="F16 has no codes"):
        layout_of("F16")


VECTORS = [name for name, layout in LAYOUTS.items() if layout.book is not None]


@pytest.mark.parametrize("type_name", VECTORS)
def test_codebooks_are_those_that_the_package_decodes_by(type_name: str) -> None:
    """Levels times an odd integer are what a scale of 4 bits makes of the magnitudes."""
    layout = LAYOUTS[type_name]
    book = layout.book
    assert book is not None
    assert np.array_equal(np.unique(book.points), np.arange(len(book.magnitudes)))
    assert len(np.unique(book.points, axis=0)) == len(book.points)
    assert list(layout.levels) == sorted({sign * m / book.divisor for m in book.magnitudes for sign in (-1, 1)})


@pytest.mark.parametrize("type_name", VECTORS)
def test_vectors_outside_the_codebook_are_refused(type_name: str) -> None:
    grid = random_grid(type_name, 1, 1, 3)
    book = grid.layout.book
    assert book is not None
    count = len(book.magnitudes)
    known = {tuple(point) for point in book.points.tolist()}
    vectors = np.stack(np.meshgrid(*[np.arange(count)] * book.size, indexing="ij"), axis=-1).reshape(-1, book.size)
    foreign = next(vector for vector in vectors.tolist() if tuple(vector) not in known)
    codes = grid.codes.copy()
    codes[0, : book.size] = count + np.array(foreign)
    with pytest.raises(ValueError, match=type_name):
        pack(grid.with_codes(codes))


@pytest.mark.parametrize("type_name", VECTORS)
def test_signs_are_free_or_even(type_name: str) -> None:
    grid = random_grid(type_name, 2, 2, 4)
    book = grid.layout.book
    assert book is not None
    codes = grid.codes.copy()
    codes[1, 77] = 2 * len(book.magnitudes) - 1 - codes[1, 77]
    flipped = grid.with_codes(codes)
    if book.free_signs:
        assert np.array_equal(unpack(pack(flipped), type_name).codes, codes)
    else:
        with pytest.raises(ValueError, match=type_name):
            pack(flipped)
