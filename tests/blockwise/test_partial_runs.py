"""Runs of a block that enter its attention and MLP at their last linear."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_model

from lieq_edge.blockwise import partial_runs as kept_inputs
from lieq_edge.blockwise.model import BlockModel
from lieq_edge.blockwise.partial_runs import StoredInputs, input_of
from lieq_edge.sources import open_source

TOKENS = torch.randint(0, 300, (4, 32), generator=torch.Generator().manual_seed(0))
BATCH = slice(0, 4)


def ends_of(model: BlockModel, kept: StoredInputs) -> torch.Tensor:
    """Let ``kept`` see a run of block 0; its output."""
    hidden = model.embed(TOKENS)
    with torch.no_grad(), model.block(0) as module:
        linears = model.linears(module, 0)
        with kept.finding_ends(module, linears):
            out = model.run_block(module, 0, hidden)
        for name in linears:
            kept.keep(name, BATCH, input_of(model, module, 0, hidden, name, {}))
    return out


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi3", "gpt2", "granite", "olmo2"])
def test_a_block_gives_the_same_from_kept_inputs(tmp_path: Path, family: str) -> None:
    model = BlockModel(open_source(str(make_model(tmp_path / "model", family))))
    kept = StoredInputs(4)
    expected = ends_of(model, kept)
    hidden = model.embed(TOKENS)
    ran: list[str] = []
    with torch.no_grad(), model.block(0) as module:
        hooks = [
            linear.register_forward_hook(lambda *_, name=name: ran.append(name))
            for name, linear in model.linears(module, 0).items()
        ]
        with kept.used(BATCH):
            again = model.run_block(module, 0, hidden)
        assert ran == ["blk.0.attn_output.weight", "blk.0.ffn_down.weight"]
        ran.clear()
        for name in ("blk.0.attn_output.weight", "blk.0.ffn_down.weight"):
            model.linears(module, 0)[name].weight.zero_()
        with kept.used(BATCH):
            torch.testing.assert_close(model.run_block(module, 0, hidden), again, rtol=0, atol=0)
        assert ran == ["blk.0.attn_output.weight", "blk.0.ffn_down.weight"]  # those who listen are told once more
        ran.clear()
        with kept.used(slice(4, 8)):
            model.run_block(module, 0, hidden)  # other sequences
        assert len(ran) == len(hooks)
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_too_large_inputs_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BlockModel(open_source(str(make_model(tmp_path / "model", "llama"))))
    monkeypatch.setattr(kept_inputs, "_LARGEST", 4 * TOKENS.numel() * model.config.hidden_size)
    kept = StoredInputs(4)
    ends_of(model, kept)
    with torch.no_grad(), model.block(0) as module, kept.used(BATCH):
        entered = [name for name, part in module.named_modules() if "forward" in vars(part)]
    assert entered == ["self_attn", "self_attn.o_proj"]
