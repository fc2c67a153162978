"""Plans under a budget and a bound on the time of a token."""

from __future__ import annotations

import pytest
from records import make_diagnostics

from lieq_edge.allocation.loss import make_loss_plan
from lieq_edge.allocation.plan import Plan
from lieq_edge.allocation.time_limit import TimeLimit
from lieq_edge.device.pace import work_of
from lieq_edge.device.profile import Profile, TypeCost
from lieq_edge.errors import InputError
from lieq_edge.gguf.types import TYPES

# Q3_K is slow for its size, as on ARM.
DECODE = {"Q2_K": 2.0, "Q3_K": 9.0, "Q4_K": 4.0, "Q6_K": 6.0}
DIAGNOSTICS = make_diagnostics([None] * 4)
LOSSES = {
    name: {kind: (1 + i) * 4.0 ** -TYPES[kind].bits for kind in DECODE}
    for i, name in enumerate(
        ["token_embd.weight"] + [f"blk.{i}.{part}.weight" for i in range(4) for part in ("attn_q", "ffn_down")]
    )
}


def limit(min_tps: float | None) -> TimeLimit:
    types = {
        name: TypeCost(prefill=decode / 4, decode=decode, source="test", estimated=False)
        for name, decode in DECODE.items()
    }
    device = Profile(
        name="board", description="A test.", memory=8, system=1, threads=1, instructions="neon", types=types
    )
    return TimeLimit(device, work_of({t.name: t.shape for t in DIAGNOSTICS.tensors}, {}, "llama"), min_tps)


def plan(budget: str, min_tps: float | None) -> Plan:
    return make_loss_plan(DIAGNOSTICS, budget, LOSSES, time=limit(min_tps))


def test_without_a_bound_the_plan_is_that_of_the_budget_and_its_speed_is_predicted() -> None:
    alone = make_loss_plan(DIAGNOSTICS, "3.6bpw", LOSSES)
    timed = plan("3.6bpw", None)
    assert timed.tensors == alone.tensors
    assert alone.pace is None
    assert timed.pace is not None
    assert timed.pace.decode > 0
    assert plan("3.6bpw", timed.pace.decode * 0.99).tensors == alone.tensors


@pytest.mark.parametrize("budget", ["3.6bpw", "2MB"])
def test_both_limits_are_kept(budget: str) -> None:
    free = plan(budget, None)
    assert free.pace is not None
    wanted = free.pace.decode * 1.1
    bound = plan(budget, wanted)
    assert bound.pace is not None
    assert bound.pace.decode >= wanted * (1 - 1e-9)
    if budget == "2MB":
        assert bound.file_bytes <= 2_000_000
    else:
        assert bound.bpw <= 3.6
    assert bound.predicted_loss is not None
    assert free.predicted_loss is not None
    assert bound.predicted_loss > free.predicted_loss


def test_the_type_that_is_slow_for_its_size_goes_first() -> None:
    free = plan("3.6bpw", None)
    assert free.pace is not None
    assert any(tensor.type == "Q3_K" for tensor in free.tensors)
    bound = plan("3.6bpw", free.pace.decode * 1.5)
    slow = [sum(tensor.type == "Q3_K" for tensor in each.tensors) for each in (free, bound)]
    assert slow[1] < slow[0]


def test_out_of_reach_says_what_the_fastest_file_does() -> None:
    with pytest.raises(InputError, match=r"under the budget 3.6bpw: the fastest file .* to reach .* on board") as error:
        plan("3.6bpw", 1e8)
    reach = float(str(error.value).split("reach ")[-1].split()[0])
    fastest = plan("3.6bpw", reach * 0.999).pace
    assert fastest is not None
    assert fastest.decode == pytest.approx(reach, rel=0.01)
