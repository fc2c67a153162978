"""H collected of a block is that of each input group by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lieq_edge.gptq.collect import Collecting, Received
from lieq_edge.gptq.hessian import Hessian, squared_norms, tokens_of

COLUMNS = {"q": 8, "k": 8, "down": 24}
HELD_OUT = frozenset({3})


def batches() -> list[tuple[slice, dict[str, tuple[torch.Tensor, torch.Tensor]]]]:
    """Inputs and loss weights of every linear, for five sequences of six tokens, two at a time."""
    generator = torch.Generator().manual_seed(0)
    batched = []
    for start in (0, 2, 4):
        batch = slice(start, min(start + 2, 5))
        count = batch.stop - batch.start
        made = {
            name: (torch.randn(count, 6, n, generator=generator), torch.rand(count, 6, generator=generator))
            for name, n in COLUMNS.items()
        }
        batched.append((batch, made))
    return batched


@pytest.mark.parametrize("divided", [True, False])
def test_every_linear_gets_its_own_tokens(divided: bool) -> None:
    expected = {(name,): Hessian.zeros(n, divided=divided) for name, n in COLUMNS.items()}
    collecting = Collecting(HELD_OUT, divided=divided)
    for batch, made in batches():
        collecting.add(batch, {(name,): Received(x, weights) for name, (x, weights) in made.items()})
        for name, (x, weights) in made.items():
            for tokens in tokens_of(batch, squared_norms(x), weights, HELD_OUT):
                expected[name,].add(tokens.of(x), tokens.weights, held_out=tokens.held_out)
    hessians, crosses = collecting.done()
    assert not crosses
    for names, wanted in expected.items():
        wanted.whole()
        np.testing.assert_allclose(hessians[names].learned, wanted.learned, rtol=1e-6)
        np.testing.assert_allclose(hessians[names].held_out, wanted.held_out, rtol=1e-6)
        assert (len(hessians[names].held_out) > 0) == divided
        np.testing.assert_array_equal(hessians[names].learned, hessians[names].learned.T)


def test_cross_moments_are_of_the_same_tokens() -> None:
    collecting = Collecting(HELD_OUT, kept=1.0)
    for batch, made in batches():
        x, weights = made["q"]
        collecting.add(batch, {("q",): Received(x, weights, 2 * x[..., :3])})
    hessians, crosses = collecting.done()
    # The wanted outputs are a linear function of the inputs, so C is the same function of H.
    np.testing.assert_allclose(crosses["q",].learned, 2 * hessians["q",].learned[:3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(crosses["q",].held_out, 2 * hessians["q",].held_out[:, :3], rtol=1e-5)
