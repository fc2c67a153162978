"""Names of tensors are parsed and built in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lieq_edge.gguf.names import TensorName, block_of, block_tensor


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("blk.3.attn_q.weight", (3, "attn_q", "weight")),
        ("blk.12.attn_q.bias", (12, "attn_q", "bias")),
        ("blk.0.ffn_gate_exps.weight", (0, "ffn_gate_exps", "weight")),
        ("blk.0.shortconv.conv.weight", (0, "shortconv.conv", "weight")),
        ("blk.7.ssm_a", (7, "ssm_a", "")),
        ("token_embd.weight", (None, "token_embd", "weight")),
        ("rope_freqs.weight", (None, "rope_freqs", "weight")),
        ("blk.x.attn_q.weight", (None, "blk.x.attn_q", "weight")),
        ("weight", (None, "weight", "")),
        ("", (None, "", "")),
    ],
)
def test_parts(name: str, parts: tuple[int | None, str, str]) -> None:
    parsed = TensorName.parse(name)
    assert (parsed.block, parsed.role, parsed.suffix) == parts
    assert str(parsed) == name
    assert block_of(name) == parts[0]


def test_a_block_number_of_too_many_digits_is_not_a_block() -> None:
    assert block_of("blk." + "1" * 5000 + ".attn_q.weight") is None


@given(st.integers(0, 999), st.from_regex(r"[a-z_]{1,12}", fullmatch=True), st.sampled_from(["weight", "bias"]))
def test_built_names_are_parsed(block: int, role: str, suffix: str) -> None:
    name = block_tensor(block, role, suffix)
    assert TensorName.parse(name) == TensorName(block, role, suffix)
