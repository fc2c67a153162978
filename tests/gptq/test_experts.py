"""H of experts, shrunk towards their siblings'."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lieq_edge.blockwise.mixture import Routed
from lieq_edge.gptq.experts import ExpertInputs, Visits, shrink
from lieq_edge.gptq.hessian import Hessian

TOKENS, COLUMNS, EXPERTS = 40, 12, 5


@pytest.fixture
def routed() -> Routed:
    """Expert 4 is visited by nobody."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.stack([torch.randperm(EXPERTS - 1, generator=generator)[:2] for _ in range(TOKENS)])
    x = torch.randn(TOKENS, COLUMNS, generator=generator)
    return Routed(x, chosen, torch.rand(TOKENS, 2, generator=generator))


@pytest.fixture
def weights() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 4, TOKENS // 4, generator=generator)
    return first, second


def _projections() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    gate, up = rng.normal(size=(2, EXPERTS, 7, COLUMNS)).astype(np.float32)
    return gate, up


def test_an_expert_has_the_h_of_its_visits(routed: Routed, weights: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs = ExpertInputs(routed, weights, frozenset({3}), shrinkage=0)
    gate, up = _projections()
    for expert in range(EXPERTS - 1):
        learned, inner = np.zeros((COLUMNS, COLUMNS)), np.zeros((7, 7))
        held_out = 0
        for t in range(TOKENS):
            for choice in range(2):
                if routed.chosen[t, choice] != expert:
                    continue
                if t >= 30:
                    held_out += 1
                    continue
                x, r = routed.x[t].double().numpy(), float(routed.weights[t, choice]) ** 2
                learned += r * float(weights[0].flatten()[t]) * np.outer(x, x)
                z = gate[expert] @ x
                z = z / (1 + np.exp(-z)) * (up[expert] @ x)
                inner += r * float(weights[1].flatten()[t]) * np.outer(z, z)
        found = inputs.shrunk(inputs.entering(expert), inputs.pool_entering())
        np.testing.assert_allclose(found.learned, learned, rtol=1e-4, atol=1e-5)
        assert len(found.held_out) == held_out
        inside = inputs.inside(expert, gate[expert], up[expert])
        found = inputs.shrunk(inside, inputs.pool_inside(gate, up, range(EXPERTS)))
        np.testing.assert_allclose(found.learned, inner, rtol=1e-4, atol=1e-4)


def test_the_pool_is_the_sum_of_all(routed: Routed, weights: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs = ExpertInputs(routed, weights, frozenset({3}), divided=False)
    each = [inputs.entering(expert).hessian(divided=False).learned for expert in range(EXPERTS)]
    np.testing.assert_allclose(inputs.pool_entering(), np.sum(each, 0), rtol=1e-4, atol=1e-5)
    gate, up = _projections()
    each = [inputs.inside(e, gate[e], up[e]).hessian(divided=False).learned for e in range(EXPERTS)]
    np.testing.assert_allclose(inputs.pool_inside(gate, up, range(EXPERTS)), np.sum(each, 0), rtol=1e-4, atol=1e-5)
    # Nobody needs it if all experts have visits.
    assert not inputs.pool_inside(gate[:4], up[:4], range(4)).any()


def test_only_what_enters_is_mixed_with_the_siblings(
    routed: Routed, weights: tuple[torch.Tensor, torch.Tensor]
) -> None:
    inputs = ExpertInputs(routed, weights, frozenset({3}))
    gate, up = _projections()
    visits = inputs.entering(0)
    assert not np.allclose(inputs.shrunk(visits, inputs.pool_entering()).learned, visits.hessian(divided=True).learned)
    visits = inputs.inside(0, gate[0], up[0])
    pooled = inputs.pool_inside(gate, up, range(EXPERTS))
    np.testing.assert_allclose(inputs.shrunk(visits, pooled).learned, visits.hessian(divided=True).learned, rtol=1e-5)


def test_an_expert_without_visits_takes_its_siblings_h(
    routed: Routed, weights: tuple[torch.Tensor, torch.Tensor]
) -> None:
    inputs = ExpertInputs(routed, weights, frozenset({3}))
    pooled = inputs.pool_entering()
    visits = inputs.entering(EXPERTS - 1)
    assert visits.count(divided=False) == 0
    assert np.array_equal(inputs.shrunk(visits, pooled).learned, pooled)


@pytest.mark.parametrize(("count", "part"), [(0, 0.0), (4, 0.5), (12, 0.75)])
def test_the_own_part_grows_with_the_visits_and_the_trace_stays(count: int, part: float) -> None:
    own, pooled = np.diag([1.0, 3, 0, 0]).astype(np.float32), np.diag([4.0, 4, 4, 4]).astype(np.float32)
    hessian = Hessian(own.copy())
    shrink(hessian, count, pooled, shrinkage=1.0)
    np.testing.assert_allclose(hessian.learned, part * own + (1 - part) * pooled / 4, rtol=1e-6)
    assert hessian.learned.trace() == pytest.approx(4)


def test_nothing_at_all_stays_nothing() -> None:
    hessian = Hessian.zeros(3)
    shrink(hessian, 0, np.zeros((3, 3), np.float32), 1.0)
    assert not hessian.learned.any()


def test_held_out_visits_are_counted_apart() -> None:
    visits = Visits(torch.ones(3, 2), torch.ones(3), torch.tensor([True, False, False]))
    assert visits.count(divided=True) == 2
    assert visits.count(divided=False) == 3
    assert visits.hessian(divided=False).learned[0, 0] == 3


def test_stored_tokens_are_off_by_little(routed: Routed) -> None:
    again = Routed.of_arrays(routed.arrays())
    assert again.chosen.equal(routed.chosen)
    assert again.weights.equal(routed.weights)
    assert float((again.x - routed.x).abs().max()) < 1e-3 * float(routed.x.abs().max())
    twice = again.rounded()
    assert float((twice.x - again.x).abs().max()) < 1e-6 * float(routed.x.abs().max())
