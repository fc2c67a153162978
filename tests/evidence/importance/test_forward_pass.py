"""Importance is the mean square of what each linear receives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measuring import importances
from memory_source import MemorySource, gguf_name, random_tokens, tiny_lm
from tiny import cached_model
from transformers import AutoModelForCausalLM

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source

TOKENS = random_tokens(4, 20)


@pytest.mark.parametrize("tied", [True, False])
def test_equals_hooks_on_the_plain_model(tied: bool) -> None:
    plain = tiny_lm("qwen2", tie_word_embeddings=tied)
    expected = {}
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: expected.update({name: args[0].double().square().mean((0, 1)).numpy()})
            )
    plain(TOKENS)
    found = importances(MemorySource(plain), TOKENS.numpy(), bfloat16=False)
    assert len(found) == 3 * 7 + 1
    for name, values in expected.items():
        gguf = "token_embd.weight" if tied and name == "lm_head" else gguf_name(f"{name}.weight")
        assert found[gguf].dtype == np.float32
        np.testing.assert_allclose(found[gguf], values, rtol=1e-4)


def test_bfloat16_products_hardly_change_it() -> None:
    source = MemorySource(tiny_lm("qwen2"))
    exact, quick = (importances(source, TOKENS.numpy(), bfloat16=on) for on in (False, True))
    for name, values in exact.items():
        np.testing.assert_allclose(quick[name].sum(), values.sum(), rtol=0.01)
        np.testing.assert_allclose(quick[name], values, rtol=0.2)


@pytest.mark.parametrize("there", [True, False])
def test_bfloat16_products_are_taken_where_the_processor_has_them(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieq_edge.blockwise.precision.has_bfloat16", lambda: there)
    source = MemorySource(tiny_lm("qwen2"))
    found, asked = (
        importances(source, TOKENS.numpy()),
        importances(source, TOKENS.numpy(), bfloat16=there),
    )
    for name, values in asked.items():
        np.testing.assert_array_equal(found[name], values)


def test_columns_that_are_never_activated_stay_positive() -> None:
    plain = tiny_lm()
    # Column 5 of ffn_down never sees anything, and attn_output of block 1 sees nothing at all.
    plain.model.layers[0].mlp.up_proj.weight[5] = 0
    plain.model.layers[1].self_attn.v_proj.weight.zero_()
    found = importances(MemorySource(plain), TOKENS.numpy())
    down = found["blk.0.ffn_down.weight"]
    assert 0 < down[5] <= 1.1e-6 * down.mean()
    np.testing.assert_array_equal(found["blk.1.attn_output.weight"], np.ones(48, np.float32))


def test_a_damaged_model_is_named() -> None:
    plain = tiny_lm()
    plain.model.layers[1].mlp.gate_proj.weight[0, 0] = float("inf")
    with pytest.raises(InputError, match=r"NaN or Inf before blk\.1\.ffn_down\.weight"):
        importances(MemorySource(plain), TOKENS.numpy())


def test_experts_have_importance_of_their_own() -> None:
    """Over the tokens that visit an expert (llama.cpp's imatrix of a stacked tensor), or any expert where none does."""
    directory = cached_model("qwen3_moe")
    source = open_source(str(directory))
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    received: dict[str, torch.Tensor] = {}
    experts = plain.model.layers[1].mlp.experts
    experts.register_forward_pre_hook(lambda _, args: received.update(x=args[0], chosen=args[1]))
    tokens = torch.arange(100, 109)[None]
    with torch.no_grad():
        plain(tokens)
    found = importances(source, tokens.numpy(), bfloat16=False)
    gate, down = found["blk.1.ffn_gate_exps.weight"], found["blk.1.ffn_down_exps.weight"]
    assert gate.shape == (8, 64)
    assert np.array_equal(gate, found["blk.1.ffn_up_exps.weight"])
    visited = received["chosen"].unique().tolist()
    assert 2 < len(visited) < 8
    every = float(received["x"].square().mean(0).sum())
    for expert in range(8):
        x = received["x"][(received["chosen"] == expert).any(-1)]
        if expert not in visited:
            assert gate[expert].sum() == pytest.approx(every, rel=1e-4)
            continue
        np.testing.assert_allclose(gate[expert], x.square().mean(0), rtol=1e-4)
        pair = torch.nn.functional.linear(x, experts.gate_up_proj[expert].detach())
        inner = torch.nn.functional.silu(pair[:, :64]) * pair[:, 64:]
        np.testing.assert_allclose(down[expert], inner.square().mean(0), rtol=1e-3, atol=1e-5)
