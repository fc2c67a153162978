"""H over the tokens that add most to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lieq_edge.gptq.hessian import KEPT, CrossMoment, Hessian, importance_of, squared_norms, tokens_of


@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 4), sequences=st.integers(2, 5))
def test_kept_tokens_carry_the_sum_of_all_weights(seed: int, spread: float, sequences: int) -> None:
    weights = torch.randn(sequences, 256, generator=torch.Generator().manual_seed(seed)).mul(spread).exp()
    held_out = frozenset({sequences - 1})
    learned, judged = tokens_of(slice(0, sequences), np.ones((sequences, 256)), weights, held_out)
    assert (learned.held_out, judged.held_out) == (False, True)
    for part, rows in ((learned, weights[:-1]), (judged, weights[-1:])):
        assert len(part.index) == pytest.approx(KEPT * rows.numel(), abs=2)
        # Systematic sampling is off by less than one of the tokens that stand for others.
        limit = part.weights.max() if spread < 0.2 else part.weights.median()
        difference = float(part.weights.double().sum() - rows.double().sum())
        assert abs(difference) <= 1.01 * float(max(limit, part.weights.min()))
        assert (part.weights >= weights.flatten()[part.index] * 0.999).all()
    assert set(judged.index.tolist()) <= set(range((sequences - 1) * 256, sequences * 256))


def test_heavy_tokens_count_as_they_are_and_equal_ones_evenly() -> None:
    weights = torch.full((1, 100), 1e-3)
    weights[0, 7] = 5.0
    (part,) = tokens_of(slice(0, 1), np.ones((1, 100)), weights, frozenset())
    place = part.index.tolist().index(7)
    assert float(part.weights[place]) == 5.0
    others = part.weights[[i for i in range(len(part.index)) if i != place]]
    assert others.max() == pytest.approx(float(others.min()))
    gaps = part.index.diff()
    assert gaps.max() <= 4


def test_a_token_that_all_attend_to_is_kept_despite_a_small_loss_weight() -> None:
    x, weights = torch.ones(1, 100, 4), torch.ones(1, 100)
    x[0, 60], weights[0, 60] = 1000.0, 0.01
    (part,) = tokens_of(slice(0, 1), squared_norms(x), weights, frozenset())
    assert float(part.weights[part.index.tolist().index(60)]) == pytest.approx(0.01)
    assert len(part.index) == pytest.approx(KEPT * 100, abs=1)


def test_without_any_weight_all_tokens_stay() -> None:
    (part,) = tokens_of(slice(0, 1), np.ones((1, 20)), torch.zeros(1, 20), frozenset())
    assert len(part.index) == 20


def test_h_of_kept_tokens_is_near_that_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 512, 16, generator=generator)
    weights = torch.randn(4, 512, generator=generator).mul(1.5).exp()
    hessian = Hessian.zeros(16)
    for part in tokens_of(slice(0, 4), squared_norms(x), weights, frozenset({3})):
        hessian.add(part.of(x), part.weights, held_out=part.held_out)
    hessian = hessian.whole()
    judged = torch.from_numpy(hessian.held_out.T @ hessian.held_out)
    trace = hessian.trace
    flat = x.flatten(0, 1)
    whole = (flat * weights.flatten()[:, None]).T @ flat
    assert trace == pytest.approx(float(whole.trace()), rel=0.05)
    assert float((torch.from_numpy(hessian.merge()) - whole).norm() / whole.norm()) < 0.05
    held = (x[3] * weights[3][:, None]).T @ x[3]
    assert float((judged - held).norm() / held.norm()) < 0.1


@pytest.mark.parametrize("divided", [True, False])
def test_a_merged_h_is_over_all_tokens(divided: bool) -> None:
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    hessian = Hessian.zeros(8, divided=divided)
    for part, held_out in ((slice(0, 20), False), (slice(20, 26), True), (slice(26, 30), True)):
        hessian.add(x[part], torch.full((len(x[part]),), 2.0), held_out=held_out)
    hessian.whole()
    assert hessian.held_out.shape == (10 if divided else 0, 8)
    torch.testing.assert_close(torch.from_numpy(hessian.merge()), 2 * x.T @ x)
    # Merging again adds nothing.
    torch.testing.assert_close(torch.from_numpy(hessian.merge()), 2 * x.T @ x)


@pytest.mark.parametrize("columns", [16, 600])
def test_products_in_bfloat16_are_summed_in_float32(columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, columns, generator=generator) + 1
    wanted, weights = x[:, :5] * 3, torch.rand(3000, generator=generator)
    hessian, crosses = Hessian.zeros(columns), CrossMoment.zeros(5, columns)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, 3000, 5):
            some = slice(start, start + 5)
            hessian.add(x[some], weights[some], held_out=False)
            crosses.add(x[some], wanted[some], weights[some], held_out=False)
    expected = (x * weights[:, None]).T @ x
    # A sum of 600 parts in bfloat16 stops growing when a part is less than a 256th of it.
    computed = torch.from_numpy(hessian.whole().learned)
    assert float((computed - expected).norm() / expected.norm()) < 1e-3
    assert float((torch.from_numpy(crosses.learned) - 3 * expected[:5]).norm() / expected[:5].norm()) < 3e-3
    assert not torch.equal(computed, expected)


def test_importance_stays_above_zero() -> None:
    hessian = Hessian.zeros(4)
    assert (importance_of(hessian.learned.diagonal()) == 1).all()
    hessian.learned[1, 1] = 8.0
    assert importance_of(hessian.merge().diagonal()).tolist() == pytest.approx([2e-6, 8.0, 2e-6, 2e-6])
