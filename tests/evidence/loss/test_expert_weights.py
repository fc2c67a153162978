"""Loss weights of experts against plain automatic differentiation of the whole model."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tiny import cached_model

from lieq_edge.blockwise.mixture import Routed, mixture_of
from lieq_edge.blockwise.model import BlockModel
from lieq_edge.evidence.loss.weights import LossWeights, measure_loss_weights, sample_labels
from lieq_edge.sources import open_source

TOKENS = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(1))
Gradients = dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module", params=["qwen3_moe", "olmoe"])
def model(request: pytest.FixtureRequest) -> BlockModel:
    heads = (4, 4) if request.param == "olmoe" else (4, 2)
    return BlockModel(open_source(str(cached_model(request.param, heads=heads))))


@pytest.fixture(scope="module")
def weights(model: BlockModel) -> LossWeights:
    return measure_loss_weights(model, TOKENS, seed=5, bfloat16=False)[0]


@pytest.fixture(scope="module")
def plain(model: BlockModel) -> tuple[Gradients, list[Routed]]:
    """Tokens and gradients at the outputs of each expert's projections, by name, and what enters the experts."""
    outputs: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
    routed: list[Routed] = []

    def keep(name: str, _: Any, args: tuple[Any, ...], out: torch.Tensor) -> None:
        out.retain_grad()
        outputs[name, args[1]] = args[2], out

    with model.whole() as whole:
        hooks = []
        for index, block in enumerate(whole.model.layers):
            hooks.append(block.mlp.experts.register_forward_pre_hook(lambda _, args: routed.append(Routed.of(*args))))
            for name, owner in model.experts(block, index).items():
                hooks.append(owner.register_forward_hook(functools.partial(keep, name)))
        embedded = whole.get_input_embeddings()(TOKENS).requires_grad_()
        logits = whole(inputs_embeds=embedded).logits.flatten(0, 1)
        labels = sample_labels(torch.softmax(logits.detach(), -1), torch.Generator().manual_seed(5))
        torch.nn.functional.cross_entropy(logits, labels[:, 0], reduction="sum").backward()
        for hook in hooks:
            hook.remove()
    found = {}
    for key, (token, out) in outputs.items():
        assert out.grad is not None
        found[key] = token, out.grad
    return found, routed


def test_weights_of_down_projections_are_exact_through_the_router(
    weights: LossWeights, plain: tuple[Gradients, list[Routed]]
) -> None:
    gradients, routed = plain
    for index, tokens in enumerate(routed):
        name = f"blk.{index}.ffn_down_exps.weight"
        each = weights.tokens[name,].flatten()
        visited = 0
        for expert in range(8):
            token, squares = tokens.visits(expert)
            if not len(token):
                assert weights.channels[name][expert].eq(1).all()
                continue
            where, slope = gradients[name, expert]
            assert where.equal(token)
            torch.testing.assert_close(squares * each[token], slope.square().mean(-1), rtol=1e-3, atol=1e-9)
            # Exact for every expert, so that its channels are on average 1.
            assert float(weights.channels[name][expert].mean()) == pytest.approx(1, rel=1e-3)
            visited += 1
        assert visited > 4


def test_the_energy_of_every_output_is_kept(weights: LossWeights, plain: tuple[Gradients, list[Routed]]) -> None:
    gradients, routed = plain
    for (name, expert), (_, slope) in gradients.items():
        index = int(name.split(".")[1])
        names = next(names for names in weights.tokens if name in names)
        token, squares = routed[index].visits(expert)
        explained = float((squares * weights.tokens[names].flatten()[token]).sum())
        kept = weights.channels[name][expert] * explained
        torch.testing.assert_close(kept, slope.square().sum(0), rtol=2e-3, atol=1e-9)


def test_weights_of_gates_are_means_over_the_experts_of_a_token(
    weights: LossWeights, plain: tuple[Gradients, list[Routed]]
) -> None:
    gradients, routed = plain
    gate, up = names = ("blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight")
    sums = torch.zeros(TOKENS.numel())
    for expert in range(8):
        if (gate, expert) in gradients:
            token, slope = gradients[gate, expert]
            both = torch.cat([slope, gradients[up, expert][1]], 1)
            sums.index_add_(0, token, both.square().mean(-1))
    expected = sums / routed[1].weights.square().sum(-1)
    torch.testing.assert_close(weights.tokens[names].flatten(), expected, rtol=1e-3, atol=1e-9)


def test_a_block_has_its_readers_in_order(model: BlockModel, weights: LossWeights) -> None:
    with model.block(0) as module:
        mixture = mixture_of(model, module, 0)
    assert mixture is not None
    assert weights.readers(0)[-2:] == list(mixture.groups)
