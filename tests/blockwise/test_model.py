"""The block-by-block model equals the plain transformers forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_cases import CASES
from memory_source import MemorySource, random_tokens, tiny_lm
from tiny import LLAMA3_ROPE, cached_model
from transformers import AutoModelForCausalLM

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.errors import InputError
from lieq_edge.sources import open_source

GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.4, "logits_scaling": 2.5}


def run(model: BlockModel, tokens: torch.Tensor) -> torch.Tensor:
    hidden = model.embed(tokens)
    for index in range(model.n_blocks):
        with model.block(index) as module:
            hidden = model.run_block(module, index, hidden)
    return hidden


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"rope_scaling": {**LLAMA3_ROPE, "rope_theta": 10000.0}}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"sliding_window": 8}),
        ("gpt2", {}),
        ("granite", GRANITE),
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_equals_the_plain_forward(family: str, changes: dict[str, Any], keep: bool) -> None:
    plain = tiny_lm(family, **changes)
    model = BlockModel(MemorySource(plain), keep_blocks=keep)
    tokens = random_tokens(3, 40)
    with torch.no_grad():
        expected = plain(tokens).logits
        # Attention is summed in another order.
        torch.testing.assert_close(model.logits(run(model, tokens)), expected, atol=1e-4, rtol=1e-4)


def test_scaled_embeddings_and_logits_differ_from_the_outputs_of_the_matrices() -> None:
    plain = tiny_lm("granite", **GRANITE)
    model = BlockModel(MemorySource(plain))
    tokens = random_tokens(2, 10)
    assert model.embedding_scale == pytest.approx(3.0, rel=1e-6)
    torch.testing.assert_close(model.embed(tokens), 3 * plain.model.embed_tokens(tokens))
    products, logits = model.head(run(model, tokens))
    torch.testing.assert_close(products, 2.5 * logits)
    plain = BlockModel(MemorySource(tiny_lm()))
    products, logits = plain.head(run(plain, tokens))
    assert products is logits
    assert plain.embedding_scale == 1.0


def test_windows_longer_than_learned_positions_are_refused() -> None:
    model = BlockModel(MemorySource(tiny_lm("gpt2")))
    model.embed(random_tokens(1, 128))
    with pytest.raises(InputError, match="positions for 128 tokens only, and a window has 129"):
        model.embed(random_tokens(1, 129))


def test_matrices_that_are_transposed_in_transformers_are_linears() -> None:
    plain = tiny_lm("gpt2")
    model = BlockModel(MemorySource(plain))
    with model.block(1) as module:
        linears = model.linears(module, 1)
        assert sorted(linears) == [f"blk.1.{role}.weight" for role in ("attn_output", "attn_qkv", "ffn_down", "ffn_up")]
        weight = plain.transformer.h[1].mlp.c_fc.weight
        assert linears["blk.1.ffn_up.weight"].weight.equal(weight.T)
        assert model.parameter("blk.1.ffn_up.weight", weight.numpy()).equal(weight.T)
        assert linears["blk.1.attn_qkv.weight"].in_features == 48


def test_blocks_leave_memory_unless_kept() -> None:
    source = MemorySource(tiny_lm())
    model = BlockModel(source, keep_blocks=False)
    for _ in range(2):
        with model.block(1) as module:
            assert not any(parameter.is_meta for parameter in module.parameters())
        assert all(parameter.is_meta for parameter in module.parameters())
    assert source.reads.count("blk.1.attn_q.weight") == 2
    kept = BlockModel(source, keep_blocks=True)
    source.reads.clear()
    for _ in range(2):
        with kept.block(1):
            pass
    assert source.reads.count("blk.1.attn_q.weight") == 1
    with model.whole() as causal_lm:
        assert not any(parameter.is_meta for parameter in causal_lm.parameters())
    assert all(parameter.is_meta for parameter in module.parameters())


def test_token_losses_are_cross_entropies_for_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny_lm()
    model = BlockModel(MemorySource(plain))
    tokens = random_tokens(4, 30)
    hidden = run(model, tokens)
    expected = torch.nn.functional.cross_entropy(plain(tokens).logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    monkeypatch.setattr("lieq_edge.blockwise.model._FEWEST_LOGIT_ROWS", 1)
    for floats in (1, 7 * 103, 1 << 24):
        monkeypatch.setattr("lieq_edge.blockwise.model._LOGIT_FLOATS", floats)
        torch.testing.assert_close(model.token_losses(hidden, tokens), expected, atol=1e-5, rtol=1e-5)


def test_advance_in_batches_equals_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BlockModel(MemorySource(tiny_lm()))
    tokens = random_tokens(5, 16)
    hidden = model.embed(tokens)
    monkeypatch.setattr("lieq_edge.blockwise.model._BATCH_TOKENS", 32)
    for index in range(model.n_blocks):
        with model.block(index) as module:
            model.advance(module, index, hidden)
    torch.testing.assert_close(hidden, run(model, tokens), atol=1e-5, rtol=1e-5)


def test_linears_have_gguf_names_and_head_is_named() -> None:
    model = BlockModel(MemorySource(tiny_lm("qwen2", tie_word_embeddings=False)))
    with model.block(2) as module:
        linears = model.linears(module, 2)
    roles = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert sorted(linears) == sorted(f"blk.2.{role}.weight" for role in roles)
    assert linears["blk.2.ffn_down.weight"] is module.mlp.down_proj
    assert model.head_name == "output.weight"
    assert BlockModel(MemorySource(tiny_lm())).head_name == "token_embd.weight"


def test_gradient_reaches_the_input_of_a_block() -> None:
    model = BlockModel(MemorySource(tiny_lm()))
    hidden = model.embed(random_tokens(2, 8)).requires_grad_()
    with model.block(0) as module:
        model.run_block(module, 0, hidden).square().sum().backward()
        assert hidden.grad is not None
        assert bool((hidden.grad != 0).all())
        assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "no_such_model"}, "does not know the model type 'no_such_model'"),
        ({"intermediate_size": 95}, "has shape"),
        ({"num_hidden_layers": 4}, "does not describe 3 blocks"),
        ({"tie_word_embeddings": False}, r"no weights for lm_head\.weight"),
    ],
)
def test_wrong_models_are_refused_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    class Broken(MemorySource):
        def config(self) -> dict[str, Any]:
            return {**super().config(), **changes}

    with pytest.raises(InputError, match=words), BlockModel(Broken(tiny_lm())).block(0):
        pass


@pytest.mark.parametrize(("family", "options"), CASES.values(), ids=CASES.keys())
def test_a_model_directory_equals_transformers_own_loading(family: str, options: dict[str, Any]) -> None:
    directory = cached_model(family, **options)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
    model = BlockModel(open_source(str(directory)))
    # Longer than the windows of Gemma, and than the context from which Phi-3 takes its long factors.
    tokens = random_tokens(2, 140, plain.config.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(run(model, tokens)), plain(tokens).logits, atol=5e-5, rtol=1e-5)


def test_threads_of_one_model_do_not_affect_the_next() -> None:
    source = open_source(str(cached_model("llama")))
    before = torch.get_num_threads()
    for threads, expected in ((3, 3), (2, 2), (None, before), (None, before)):
        BlockModel(source, threads=threads)
        assert torch.get_num_threads() == expected
