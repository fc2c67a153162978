"""Compactness gain: a planted concentrated head stands out, and both baselines are what they say."""

from __future__ import annotations

import pytest
import torch
from memory_source import MemorySource, random_tokens, tiny_lm

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.evidence.blocks.geometry import Geometry, GeometryPass, block_means
from lieq_edge.evidence.blocks.spectral import compactness, energy_spectrum, top_k_energy
from lieq_edge.evidence.blocks.untrained import draw, untrained_block

TOKENS = random_tokens(1, 100)


def measure(model: BlockModel, **options: object) -> list[dict[str, Geometry]]:
    geometry = GeometryPass(model, TOKENS, **options)  # type: ignore[arg-type]
    for index in range(model.n_blocks):
        with model.block(index) as module:
            geometry.step(module, index)
    return geometry.results


def test_a_planted_concentrated_head_stands_out() -> None:
    plain = tiny_lm()
    weight = plain.model.layers[1].self_attn.q_proj.weight
    # Head 2 of 4 (rows 24..35) writes one direction only.
    weight[24:36] = torch.outer(torch.arange(1.0, 13.0), weight[24])
    results = measure(BlockModel(MemorySource(plain)))
    gains = results[1]["attn_q"].compactness_gain
    assert gains.shape == (4,)
    assert int(gains.argmax()) == 2
    # One direction of about 11 effective ones: dr = 1 - 1 / Compact(Z~).
    assert float(gains[2]) > 0.85
    assert float(gains[[0, 1, 3]].abs().max()) < 0.3
    assert float(results[1]["attn_q"].energy_gain[2]) > 0.7
    assert block_means(results[1])[0] > block_means(results[0])[0] + 0.05


def test_values_are_those_of_the_equations() -> None:
    plain = tiny_lm("qwen2")
    captured = {}
    layer = plain.model.layers[0].self_attn
    layer.v_proj.register_forward_pre_hook(lambda _, args: captured.update(h=args[0][0]))
    plain(TOKENS)
    model = BlockModel(MemorySource(plain))
    found = measure(model, seeds=(5,))[0]["attn_v"]
    # Without the bias, and the second of two key/value heads.
    trained = energy_spectrum(captured["h"] @ layer.v_proj.weight[12:24].T)
    random = draw(layer.v_proj.weight.shape, model.config.initializer_range, 5, 0, 2)[12:24]
    untrained = energy_spectrum(captured["h"] @ random.T)
    expected = (compactness(untrained) - compactness(trained)) / compactness(untrained)
    assert float(found.compactness_gain[1]) == pytest.approx(float(expected), abs=1e-5)
    expected = top_k_energy(trained) - top_k_energy(untrained)
    assert float(found.energy_gain[1]) == pytest.approx(float(expected), abs=1e-5)


def test_block_mean_counts_every_head_once() -> None:
    two, one = torch.tensor([0.3, 0.6]), torch.tensor([-0.3])
    assert block_means({"attn_q": Geometry(two, two), "attn_k": Geometry(one, one)}) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize("baseline", ["projection", "network"])
def test_all_projections_and_reproducible(baseline: str) -> None:
    model = BlockModel(MemorySource(tiny_lm()))
    results = measure(model, projections="all", baseline=baseline)
    heads = {role: len(found.compactness_gain) for role, found in results[0].items()}
    assert heads == {
        "attn_q": 4,
        "attn_k": 2,
        "attn_v": 2,
        "attn_output": 1,
        "ffn_gate": 1,
        "ffn_up": 1,
        "ffn_down": 1,
    }
    again = measure(model, projections="all", baseline=baseline)
    for first, second in zip(results, again, strict=True):
        for role in first:
            assert torch.equal(first[role].compactness_gain, second[role].compactness_gain)
    other = measure(model, projections="all", baseline=baseline, seeds=(9,))
    assert not torch.equal(other[0]["attn_q"].compactness_gain, results[0]["attn_q"].compactness_gain)


def test_an_untrained_network_gains_nothing_over_itself() -> None:
    """With its own untrained weights planted as the trained ones, the network baseline gives exactly zero."""
    plain = tiny_lm()
    sigma = plain.config.initializer_range
    table = plain.model.embed_tokens.weight
    table.copy_(draw(table.shape, sigma, 0, plain.config.num_hidden_layers, 0))
    for index, layer in enumerate(plain.model.layers):
        layer.load_state_dict(untrained_block(layer, sigma, 0, index).state_dict())
    model = BlockModel(MemorySource(plain))
    for geometry in measure(model, baseline="network", seeds=(0,)):
        for found in geometry.values():
            assert float(found.compactness_gain.abs().max()) < 1e-9
    assert abs(block_means(measure(model, baseline="network", seeds=(1,))[0])[0]) > 1e-4


def test_drawn_matrices_have_the_asked_deviation_and_own_streams() -> None:
    first = draw(torch.Size((200, 200)), 0.02, 0, 1, 2)
    assert float(first.std()) == pytest.approx(0.02, rel=0.02)
    assert float(first.mean()) == pytest.approx(0.0, abs=5e-4)
    for stream in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        other = draw(torch.Size((200, 200)), 0.02, *stream)
        assert abs(float((first * other).mean())) < 0.02**2 * 0.03


@pytest.mark.parametrize("baseline", ["projection", "network"])
def test_a_fused_projection_is_measured_as_three(baseline: str) -> None:
    """GPT-2 keeps q, k and v in one matrix."""
    plain = tiny_lm("gpt2")
    captured = {}
    attention = plain.transformer.h[0].attn
    attention.c_attn.register_forward_pre_hook(lambda _, args: captured.update(h=args[0][0]))
    plain(TOKENS)
    # Head 1 of 4 of the keys (of 48 rows behind 48 of the queries).
    results = measure(BlockModel(MemorySource(plain)), seeds=(5,), baseline=baseline)
    assert sorted(results[0]) == ["attn_k", "attn_q", "attn_v"]
    assert all(found.compactness_gain.shape == (4,) for found in results[0].values())
    if baseline == "projection":
        trained = energy_spectrum(captured["h"] @ attention.c_attn.weight[:, 60:72])
        # Roles are numbered by name: k is the first.
        untrained = energy_spectrum(captured["h"] @ draw(torch.Size([48, 48]), 0.02, 5, 0, 0)[12:24].T)
        expected = (compactness(untrained) - compactness(trained)) / compactness(untrained)
        assert float(results[0]["attn_k"].compactness_gain[1]) == pytest.approx(float(expected), abs=1e-5)
