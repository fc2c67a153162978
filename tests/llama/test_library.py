"""ggml's decoders as sources use them: the same values as gguf's slow ones, and types that gguf does not read."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from lieq_edge.gguf.types import TYPES
from lieq_edge.llama import library as ggml


def _in_both() -> list[GGMLQuantizationType]:
    found = []
    for kind, (_, size) in GGML_QUANT_SIZES.items():
        try:
            dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        found.append(kind)
    return found


@pytest.mark.parametrize("kind", _in_both(), ids=lambda kind: kind.name)
def test_ggml_and_gguf_decode_any_bytes_to_the_same_bits(kind: GGMLQuantizationType) -> None:
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(int(kind)).integers(0, 256, (64, 8 * size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = dequantize(raw, kind)
    assert ggml.can_decode(kind)
    found = ggml.decode(raw, kind, expected.shape)
    assert found.shape == (64, 8 * block)
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.isnan(found), ~numbers)
    assert np.array_equal(found[numbers].view(np.uint32), expected[numbers].view(np.uint32))


@pytest.mark.skipif(not ggml.supports("Q2_0"), reason="ggml lacks the type")
def test_types_that_gguf_does_not_decode_are_read() -> None:
    raw = np.zeros((2, 18), np.uint8)
    raw[:, 1] = 0x3C  # a scale of 1
    raw[:, 2:] = 0b11_10_01_00
    decoded = ggml.decode(raw, TYPES["Q2_0"].id, (2, 64))
    assert np.array_equal(decoded[0, :4], [-1, 0, 1, 2])


@pytest.mark.parametrize("kind", [26, 33, 999, -1])
def test_integers_removed_types_and_unknown_numbers_cannot_be_decoded(kind: int) -> None:
    assert not ggml.can_decode(kind)


def test_bytes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        ggml.decode(np.zeros(18, np.uint8), TYPES["Q4_0"].id, (2, 32))
