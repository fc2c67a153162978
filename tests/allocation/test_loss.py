"""Plans from predicted losses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import make_diagnostics

from lieq_edge.allocation.loss import make_loss_plan
from lieq_edge.allocation.plan import PlanOptions
from lieq_edge.errors import InputError
from lieq_edge.gguf.types import TYPES

K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def make_losses(weights: dict[str, float], default: float = 1.0) -> dict[str, dict[str, float]]:
    """Losses that fall by four a bit, scaled tensor by tensor."""
    names = ["token_embd.weight"] + [f"blk.{i}.{part}.weight" for i in range(4) for part in ("attn_q", "ffn_down")]
    return {name: {t: weights.get(name, default) * 4.0 ** -TYPES[t].bits for t in K_TYPES} for name in names}


def test_the_tensor_that_counts_most_gets_the_most_bits() -> None:
    losses = make_losses({"blk.2.ffn_down.weight": 1000.0, "blk.1.attn_q.weight": 0.001})
    plan = make_loss_plan(make_diagnostics([None] * 4), "3.6bpw", losses)
    types = {tensor.name: tensor.type for tensor in plan.tensors}
    assert types["blk.2.ffn_down.weight"] == "Q6_K"
    assert types["blk.1.attn_q.weight"] == "Q2_K"
    assert plan.bpw <= 3.6
    assert plan.predicted_loss == pytest.approx(sum(losses[n][t] for n, t in types.items() if n in losses))
    assert max(plan.blocks, key=lambda block: block.score).index == 2


def test_whole_blocks_share_a_type() -> None:
    losses = make_losses({"blk.2.ffn_down.weight": 1000.0})
    options = PlanOptions(metric="loss", granularity="block")
    plan = make_loss_plan(make_diagnostics([None] * 4), "3", losses, options)
    types = {tensor.name: tensor.type for tensor in plan.tensors}
    for i in range(4):
        assert types[f"blk.{i}.attn_q.weight"] == types[f"blk.{i}.ffn_down.weight"]
    assert plan.blocks[2].bits == max(block.bits for block in plan.blocks)
    assert plan.nominal_bits <= 3


@given(st.integers(0, 10**6), st.lists(st.floats(1e-3, 1e3), min_size=9, max_size=9))
def test_a_byte_budget_is_never_exceeded_and_the_embedding_takes_part(extra: int, scales: list[float]) -> None:
    names = list(make_losses({}))
    losses = make_losses(dict(zip(names, scales, strict=True)))
    diagnostics = make_diagnostics([None] * 4)
    with pytest.raises(InputError, match="or more") as caught:
        make_loss_plan(diagnostics, "1kB", losses)
    least = float(str(caught.value).split(" MB")[0].split()[-1]) * 1e6 + 1e5
    plan = make_loss_plan(diagnostics, f"{int(least) + extra}b", losses)
    assert plan.file_bytes <= int(least) + extra


def test_a_fixed_embedding_stays() -> None:
    options = PlanOptions(metric="loss", granularity="tensor", token_embedding_type="Q8_0")
    plan = make_loss_plan(make_diagnostics([None] * 4), "2MB", make_losses({}), options)
    assert {t.name: t.type for t in plan.tensors}["token_embd.weight"] == "Q8_0"
