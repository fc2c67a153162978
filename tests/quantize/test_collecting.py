"""Moments are the same whoever adds to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lieq_edge.quantize import collecting
from lieq_edge.quantize.collecting import Collecting
from lieq_edge.quantize.statistics import Moments, tokens_of
from lieq_edge.quantize.workers import Workers

COLUMNS = {"q": 8, "k": 8, "down": 24}
HELD_OUT = frozenset({3})


def batches() -> list[tuple[slice, dict[str, tuple[torch.Tensor, torch.Tensor]]]]:
    """Inputs and loss weights of every linear, for five sequences of six tokens, two at a time."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for start in (0, 2, 4):
        batch = slice(start, min(start + 2, 5))
        count = batch.stop - batch.start
        made = {
            name: (torch.randn(count, 6, n, generator=generator), torch.rand(count, 6, generator=generator))
            for name, n in COLUMNS.items()
        }
        found.append((batch, made))
    return found


@pytest.mark.parametrize("wide", [4096, 10])
@pytest.mark.parametrize("missing", [None, "k"])
def test_every_linear_gets_its_own_tokens(wide: int, missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_WIDE", wide)
    expected = {name: Moments.zeros(n) for name, n in COLUMNS.items()}
    with Workers(2) as workers:
        found = Collecting({name: Moments.zeros(n) for name, n in COLUMNS.items()}, HELD_OUT, workers)
        for batch, made in batches():
            for name, (x, weights) in made.items():
                # A linear that one batch does not reach keeps no other waiting for long.
                if name == missing and batch.start == 2:
                    continue
                found.add(name, batch, x, weights)
                for some in tokens_of(batch, weights, HELD_OUT):
                    expected[name].add(some.of(x), some.weights, held_out=some.held_out)
        moments = found.done()
    for name, wanted in expected.items():
        wanted.whole()
        np.testing.assert_allclose(moments[name].learned, wanted.learned, rtol=1e-6)
        np.testing.assert_allclose(moments[name].held_out, wanted.held_out, rtol=1e-6)
        assert moments[name].trace > 0
        np.testing.assert_array_equal(moments[name].learned, moments[name].learned.T)
