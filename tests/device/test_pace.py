"""Predicted speed: which weights count, and types that a profile lacks."""

from __future__ import annotations

import pytest

from lieq_edge.device.pace import Matrix, Work, cost_of, decode_seconds, predict_pace, work_of
from lieq_edge.device.profile import Profile, TypeCost


def profile(**costs: tuple[float, float]) -> Profile:
    types = {
        name: TypeCost(prefill=prefill, decode=decode, source="test", estimated=False)
        for name, (prefill, decode) in costs.items()
    }
    return Profile(
        name="test", description="A test.", memory=8, system=1, threads=1, instructions="neon-dotprod", types=types
    )


UNTIED = [
    Matrix("token_embd.weight", (1000, 100), "Q4_K"),
    Matrix("blk.0.attn_norm.weight", (100,), "F32"),
    Matrix("blk.0.ffn_up.weight", (200, 100), "Q4_K"),
    Matrix("output.weight", (1000, 100), "Q4_K"),
]


def work(tensors: list[Matrix], **metadata: object) -> Work:
    return work_of({t.name: t.shape for t in tensors}, metadata, "llama")


def test_rows_of_an_embedding_are_looked_up_and_a_head_is_multiplied() -> None:
    device = profile(Q4_K=(0.5, 2.0))
    pace = predict_pace(device, UNTIED, work(UNTIED))
    assert pace.decode == pytest.approx(1e9 / (2 * (20_000 + 100_000)))
    assert pace.prefill == pytest.approx(1e9 / (0.5 * 20_000))
    tied = UNTIED[:-1]
    assert predict_pace(device, tied, work(tied)) == pace


def test_rows_take_time_beside_their_weights() -> None:
    device = profile(Q4_K=(0.5, 2.0))
    cost = device.types["Q4_K"].model_copy(update={"row_prefill": 30.0, "row_decode": 50.0})
    slower = device.model_copy(update={"types": {"Q4_K": cost}})
    pace = predict_pace(slower, UNTIED, work(UNTIED))
    assert pace.decode == pytest.approx(1e9 / (2 * 120_000 + 50 * 1200))
    assert pace.prefill == pytest.approx(1e9 / (0.5 * 20_000 + 30 * 200))
    assert cost_of(slower, "Q3_K").row_decode == 50.0


def test_of_experts_those_count_that_a_token_goes_through() -> None:
    tensors = [Matrix("blk.0.ffn_up_exps.weight", (8, 200, 100), "Q4_K"), UNTIED[-1]]
    mixture = work_of(
        {t.name: t.shape for t in tensors}, {"llama.expert_count": 8, "llama.expert_used_count": 2}, "llama"
    )
    assert decode_seconds(profile(Q4_K=(1.0, 2.0)), tensors[0], mixture) == pytest.approx(2e-9 * 40_000)


def test_blocks_take_time_without_matrices_too() -> None:
    device = profile(Q4_K=(0.5, 2.0))
    # 600 and 4 a column, of which there are 100.
    costs = {"prefill": 600.0, "decode": 9600.0, "width_prefill": 4.0, "width_decode": 4.0}
    slower = device.model_copy(update={"block": device.block.model_copy(update=costs)})
    fast, slow = (predict_pace(each, UNTIED, work(UNTIED)) for each in (device, slower))
    assert 1 / slow.decode - 1 / fast.decode == pytest.approx(1e-5)
    assert 1 / slow.prefill - 1 / fast.prefill == pytest.approx(1e-6)


def test_a_type_that_is_missing_is_interpolated_and_named() -> None:
    device = profile(Q4_K=(1.0, 2.0), Q6_K=(3.0, 4.0), Q2_K=(9.0, 9.0))
    between = cost_of(device, "Q5_K")  # 5.5 bits between 4.5 and 6.5625, of types with another layout
    share = (5.5 - 4.5) / (6.5625 - 4.5)
    assert (between.prefill, between.decode) == (pytest.approx(1 + 2 * share), pytest.approx(2 + 2 * share))
    assert between.estimated
    beyond = cost_of(device, "Q8_0")
    assert (beyond.prefill, beyond.decode) == (3.0, pytest.approx(4.0 * 8.5 / 6.5625))
    assert cost_of(device, "Q3_K").prefill == 9.0  # no other layout, as Q2_K
    tensors = [Matrix("blk.0.ffn_up.weight", (200, 100), kind) for kind in ("Q5_K", "Q4_K", "F32")]
    assert predict_pace(device, tensors, work(UNTIED)).interpolated == ("Q5_K",)
