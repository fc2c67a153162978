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
        assert layout.scales is not None
        return rng.integers(layout.scales.lowest, layout.scales.highest + 1, (rows, subs)).astype(np.int16)

    return Grid(
        type_name,
        rng.integers(layout.lowest_code, len(layout.levels), (rows, columns)).astype(np.uint8),
        halves(),
        halves() if layout.m is not None else None,
        integers() if layout.scales is not None else None,
        integers() if layout.scales is not None and layout.m is not None else None,
    )


@pytest.mark.parametrize("type_name", CASES)
@settings(max_examples=25, deadline=None)
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
    packed = ggml.encode(weights, type_name, importance if weighted or type_name == "Q2_K" else None, 1)
    grid = unpack(packed, type_name)
    assert np.array_equal(pack(grid), packed)
    expected = decode(packed, type_name, weights.shape)
    assert np.array_equal(grid.values().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("type_name", CASES)
@settings(max_examples=25, deadline=None)
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


def test_types_without_single_codes_are_refused() -> None:
    with pytest.raises(InputError, match="IQ2_XS"):
        layout_of("IQ2_XS")
