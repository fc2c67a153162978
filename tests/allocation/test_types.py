"""Candidates of matrices by the length of their rows."""

from __future__ import annotations

import pytest

from lieq_edge.allocation.types import candidate_types, resolve
from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.records import TensorInfo

WIDE, NARROW = TensorInfo("blk.0.ffn_down.weight", (576, 1536)), TensorInfo("blk.0.attn_q.weight", (576, 576))
TENSORS = (WIDE, NARROW, TensorInfo("blk.0.attn_norm.weight", (576,)))


def test_other_programs_read_what_narrow_rows_get_unless_more_is_asked_for() -> None:
    usual = candidate_types(TENSORS, "k")
    assert usual[WIDE.name] == ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
    assert usual[NARROW.name] == ("Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
    assert usual.keys() == {WIDE.name, NARROW.name}
    whole = candidate_types(TENSORS, "all")
    assert set(whole[NARROW.name]) == {*usual[NARROW.name], "IQ4_NL"}
    assert "IQ4_XS" in whole[WIDE.name]
    assert "IQ4_NL" not in whole[WIDE.name]


def test_names_and_lists_go_together() -> None:
    asked = candidate_types(TENSORS, "k, iq4_nl")
    assert asked[NARROW.name] == ("Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")
    assert candidate_types(TENSORS, "Q8_0,k,Q8_0")[WIDE.name][0] == "Q8_0"
    assert candidate_types(TENSORS, "Q4_K,Q8_0")[NARROW.name] == ("Q8_0",)
    for wrong in ("", "k,", "Q9", "K-quants"):
        with pytest.raises(InputError, match="is unknown; choose k, all, or some of"):
            candidate_types(TENSORS, wrong)
    with pytest.raises(InputError, match="rows of 576 weights"):
        candidate_types(TENSORS, "Q4_K")
    assert candidate_types(TENSORS, "Q4_K", strict=False)[NARROW.name] == ()


@pytest.mark.parametrize(
    ("wanted", "found"), [("Q2_K", "Q4_0"), ("Q4_K", "Q4_0"), ("Q5_K", "Q5_0"), ("Q6_K", "Q8_0"), ("IQ4_XS", "Q4_0")]
)
def test_a_replacement_is_a_type_that_many_programs_read(wanted: str, found: str) -> None:
    assert resolve(wanted, 576).type.name == found
    assert resolve("IQ4_NL", 576).type.name == "IQ4_NL"
