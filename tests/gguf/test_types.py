"""The table of types: sizes and numbers agree with ggml and llama.cpp, and every list follows from it."""

from __future__ import annotations

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from lieq_edge.gguf import types
from lieq_edge.gguf.blocks import LAYOUTS
from lieq_edge.gguf.storage import storage_type
from lieq_edge.gguf.types import TYPES, TYPES_BY_ID, is_matrix

UNNAMED = {"Q2_0"}
"""Types that the gguf package does not name yet."""

MIXTURES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "F32": "ALL_F32"}


@pytest.mark.parametrize("name", sorted(TYPES.keys() - UNNAMED))
def test_sizes_and_numbers_are_those_of_gguf(name: str) -> None:
    kind = TYPES[name]
    number = GGMLQuantizationType[name]
    assert kind.id == number
    assert (kind.block, kind.block_bytes) == GGML_QUANT_SIZES[number]
    label = MIXTURES.get(name, name)
    assert kind.ftype == LlamaFileType[label if label == "ALL_F32" else f"MOSTLY_{label}"]


def test_numbers_are_unique() -> None:
    assert len(TYPES_BY_ID) == len(TYPES)
    assert types.FILE_TYPES["Q2_0"] == 41
    assert len(set(types.FILE_TYPES.values())) == len(TYPES)


def test_lists_of_types() -> None:
    assert types.K_CANDIDATES == ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
    assert types.NARROW_CANDIDATES == ("Q2_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
    assert types.PORTABLE_CANDIDATES == ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
    assert types.PORTABLE_FALLBACKS == ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16")
    assert types.CODEBOOK_TYPES == ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS")
    assert types.FALLBACKS == ("IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16")
    assert list(types.LEVEL_TYPES.items()) == [
        (2, "Q2_K"),
        (3, "Q3_K"),
        (4, "Q4_K"),
        (5, "Q5_K"),
        (6, "Q6_K"),
        (8, "Q8_0"),
    ]


def test_feedback_knows_every_candidate_but_vectors() -> None:
    assert {*types.K_CANDIDATES, *types.NARROW_CANDIDATES, "IQ4_XS"} <= LAYOUTS.keys()
    assert LAYOUTS.keys() <= TYPES.keys()


def test_types_that_some_programs_refuse_are_named() -> None:
    read = {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
    assert types.unportable(TYPES.keys()) == [
        "IQ2_XXS", "Q2_0", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS", "IQ4_NL",
    ]  # fmt: skip
    assert types.unportable(read) == []
    assert types.portability_note(read) is None
    note = types.portability_note(["Q4_K", "IQ4_NL", "Q2_0", "Q2_0"])
    assert note is not None
    assert "read Q2_0, IQ4_NL, mistral.rs does not; --types portable" in note


def test_types_that_are_only_copied() -> None:
    copied = storage_type("I32")
    assert (copied.id, copied.block, copied.block_bytes, copied.ftype) == (GGMLQuantizationType.I32, 1, 4, None)
    with pytest.raises(KeyError):
        storage_type("Q9_Z")


@pytest.mark.parametrize(
    ("name", "shape", "quantised"),
    [
        ("blk.0.attn_q.weight", (8, 8), True),
        ("blk.0.attn_q.bias", (8, 8), False),
        ("blk.0.attn_q_norm.weight", (4, 8), False),
        ("blk.0.ffn_gate_inp.weight", (4, 8), False),
        ("output_norm.weight", (8,), False),
        ("blk.0.attn_q.weight", (1, 8), False),
        ("position_embd.weight", (32, 8), False),
    ],
)
def test_matrices(name: str, shape: tuple[int, ...], quantised: bool) -> None:
    assert is_matrix(name, shape) == quantised
