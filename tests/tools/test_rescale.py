"""A model with its channels on another scale says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import cached_model
from transformers import AutoModelForCausalLM

from tools.rescale import WHAT, rescale


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_the_outputs_stay(kind: str, tmp_path: Path) -> None:
    model = cached_model(kind)
    rescale(model, tmp_path / "out", 0.5, WHAT, tokens=512)
    one, other = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (model, tmp_path / "out"))
    ids = torch.arange(1, 33)[None]
    with torch.no_grad():
        assert torch.allclose(one(ids).logits, other(ids).logits, atol=1e-4)
    before, after = one.state_dict(), other.state_dict()
    for name in ("mlp.down_proj", "mlp.up_proj", "self_attn.q_proj", "self_attn.o_proj", "self_attn.v_proj"):
        assert not torch.equal(before[f"model.layers.0.{name}.weight"], after[f"model.layers.0.{name}.weight"]), name
