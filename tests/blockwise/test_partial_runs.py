"""Runs of a block that enter its attention and MLP at their last linear."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_model

from lieq_edge.blockwise import partial_runs
from lieq_edge.blockwise.model import BlockModel
from lieq_edge.blockwise.partial_runs import StoredInputs, input_of
from lieq_edge.sources import open_source

TOKENS = torch.randint(0, 300, (4, 32), generator=torch.Generator().manual_seed(0))
BATCH = slice(0, 4)


def ends_of(model: BlockModel, stored: StoredInputs) -> torch.Tensor:
    """The output of block 0, after storing the inputs of its last linears in ``stored``."""
    hidden = model.embed(TOKENS)
    with torch.no_grad(), model.block(0) as module:
        linears = model.linears(module, 0)
        with stored.finding_ends(module, linears):
            out = model.run_block(module, 0, hidden)
        for name in linears:
            stored.keep(name, BATCH, input_of(model, module, 0, hidden, name, {}))
    return out


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi3", "gpt2", "granite", "olmo2"])
def test_a_block_gives_the_same_from_stored_inputs(tmp_path: Path, family: str) -> None:
    model = BlockModel(open_source(str(make_model(tmp_path / "model", family))))
    stored = StoredInputs(4)
    expected = ends_of(model, stored)
    hidden = model.embed(TOKENS)
    ran: list[str] = []
    with torch.no_grad(), model.block(0) as module:
        hooks = [
            linear.register_forward_hook(lambda *_, name=name: ran.append(name))
            for name, linear in model.linears(module, 0).items()
        ]
        with stored.used(BATCH):
            again = model.run_block(module, 0, hidden)
        assert ran == ["blk.0.attn_output.weight", "blk.0.ffn_down.weight"]
        ran.clear()
        for name in ("blk.0.attn_output.weight", "blk.0.ffn_down.weight"):
            model.linears(module, 0)[name].weight.zero_()
        with stored.used(BATCH):
            torch.testing.assert_close(model.run_block(module, 0, hidden), again, rtol=0, atol=0)
        assert ran == ["blk.0.attn_output.weight", "blk.0.ffn_down.weight"]  # hooks are called again
        ran.clear()
        with stored.used(slice(4, 8)):
            model.run_block(module, 0, hidden)  # other sequences
        assert len(ran) == len(hooks)
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_inputs_that_are_too_large_are_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = BlockModel(open_source(str(make_model(tmp_path / "model", "llama"))))
    monkeypatch.setattr(partial_runs, "_LARGEST", 4 * TOKENS.numel() * model.config.hidden_size)
    stored = StoredInputs(4)
    ends_of(model, stored)
    with torch.no_grad(), model.block(0) as module, stored.used(BATCH):
        entered = [name for name, part in module.named_modules() if "forward" in vars(part)]
    assert entered == ["self_attn", "self_attn.o_proj"]
