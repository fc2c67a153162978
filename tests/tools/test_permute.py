"""A model with its channels in another order says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import cached_model
from transformers import AutoModelForCausalLM

from tools.permute import ORDERS, WHAT, permute


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_outputs_stay(order: str, kind: str, tmp_path: Path) -> None:
    model = cached_model(kind)
    permute(model, tmp_path / "out", order, WHAT, tokens=512)
    ids = torch.arange(1, 33)[None]
    with torch.no_grad():
        one, other = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (model, tmp_path / "out"))
    assert torch.allclose(one, other, atol=1e-5)
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).state_dict()["model.layers.0.mlp.down_proj.weight"]
        for path in (model, tmp_path / "out")
    )
    assert not torch.equal(before, after)
