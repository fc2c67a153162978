"""One sweep gives what removing the blocks one after another gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from memory_source import MemorySource, random_tokens, tiny_lm

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.evidence.blocks.saliency import SaliencyPass, perplexity_drops, windows_at_once

TOKENS = random_tokens(3, 24)


def sweep(plain: Any, tokens: torch.Tensor = TOKENS, bfloat16: bool = False) -> torch.Tensor:
    model = BlockModel(MemorySource(plain), keep_blocks=False)
    saliency = SaliencyPass(model, tokens, bfloat16=bfloat16)
    for index in range(model.n_blocks):
        with model.block(index) as module:
            saliency.step(module, index)
    return saliency.losses()


def naive_perplexity(plain: Any, without: int | None) -> float:
    layers = plain.model.layers
    kept = [layer for index, layer in enumerate(layers) if index != without]
    plain.model.layers, count = torch.nn.ModuleList(kept), plain.config.num_hidden_layers
    plain.config.num_hidden_layers = len(kept)
    try:
        logits = plain(TOKENS, use_cache=False).logits[:, :-1]
    finally:
        plain.model.layers, plain.config.num_hidden_layers = layers, count
    return math.exp(torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).item())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_equals_naive_removal(family: str) -> None:
    plain = tiny_lm(family, num_hidden_layers=4)
    ppl, drops = perplexity_drops(sweep(plain), 3 * 23)
    expected = naive_perplexity(plain, None)
    assert ppl == pytest.approx(expected, rel=1e-5)
    for index, drop in enumerate(drops):
        assert drop == pytest.approx(naive_perplexity(plain, index) - expected, rel=1e-3, abs=1e-3 * expected)


def test_an_identity_block_is_not_missed() -> None:
    plain = tiny_lm()
    plain.model.layers[1].self_attn.o_proj.weight.zero_()
    plain.model.layers[1].mlp.down_proj.weight.zero_()
    _, drops = perplexity_drops(sweep(plain), 3 * 23)
    assert drops[1] == 0.0
    assert abs(drops[0]) > 1e-3
    assert abs(drops[2]) > 1e-3


def test_text_in_pieces_gives_the_same_losses() -> None:
    plain = tiny_lm()
    pieces = sum(sweep(plain, piece) for piece in TOKENS.split(1))
    torch.testing.assert_close(pieces, sweep(plain), rtol=1e-6, atol=0)


def test_windows_at_once_follows_the_memory() -> None:
    model = BlockModel(MemorySource(tiny_lm()))
    one = 4 * 48 * 24 * 4
    assert windows_at_once(model, 24, 5 * one) == 5
    assert windows_at_once(model, 24, 1) == 1


def test_hopeless_losses_stay_finite() -> None:
    ppl, drops = perplexity_drops(torch.tensor([1e6, 10.0]), 10)
    assert ppl == pytest.approx(math.e)
    assert math.isfinite(drops[0])


def test_bfloat16_products_hardly_change_the_losses() -> None:
    plain = tiny_lm("qwen3")
    exact, quick = sweep(plain), sweep(plain, bfloat16=True)
    torch.testing.assert_close(quick, exact, rtol=1e-3, atol=0.0)
