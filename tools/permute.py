"""Reorder the channels of a model without changing its outputs, to see whether rounding likes another order better.

    python -m tools.permute wide permuted --order importance --what mlp

MODEL is a Hugging Face directory of a family with Llama's names of weights. Neurons of an MLP move together in gate,
up and down; channels of a value head in v and in all o that read it; the residual stream in everything that reads or
writes it. Orders: ``importance``, by the mean square of what enters the matrix behind, the largest first; ``norm``, by
the norm of that matrix's columns; ``random``, seeded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lieq_edge.sources import open_source
from lieq_edge.texts.windows import calibration_windows

WHAT = ("mlp", "heads", "stream")
ORDERS = ("importance", "norm", "random")
_READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")
_WRITERS = ("o_proj", "down_proj")
TOKENS = 8192


def mean_squares(model: Path, tokens: int = TOKENS) -> dict[str, Tensor]:
    """Sums of squares of the inputs of every linear in the blocks, by name, over the built-in text."""
    causal_lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found: dict[str, Tensor] = {}

    def watch(name: str, linear: nn.Linear) -> None:
        def seen(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].detach().flatten(0, -2).double().square().sum(0)
            found[name] = found[name] + squares if name in found else squares

        linear.register_forward_pre_hook(seen)

    for name, module in causal_lm.named_modules():
        if isinstance(module, nn.Linear) and ".layers." in name:
            watch(name, module)
    windows, _ = calibration_windows(open_source(str(model)), "builtin", tokens=tokens)
    with torch.no_grad():
        for window in windows:
            causal_lm(torch.from_numpy(window)[None])
    return found


def read_directory(model: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a Hugging Face directory."""
    weights: dict[str, Tensor] = {}
    for path in sorted(model.glob("*.safetensors")):
        weights |= load_file(path)
    return json.loads((model / "config.json").read_text(encoding="utf-8")), weights


def write_directory(model: Path, out: Path, weights: dict[str, Tensor]) -> None:
    """Write a model with other weights, and everything else as in ``model``."""
    out.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copy(path, out)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def permute(model: Path, out: Path, order: str, what: tuple[str, ...], *, tokens: int = TOKENS) -> None:
    """Write the model with its channels in another order."""
    config, weights = read_directory(model)
    squares = mean_squares(model, tokens) if order == "importance" else {}
    generator = torch.Generator().manual_seed(0)

    def ranked(name: str) -> Tensor:
        """The rank of each input of a linear, the first the largest."""
        matrix = weights[f"{name}.weight"]
        if order == "random":
            return torch.rand(matrix.shape[1], generator=generator)
        return squares[name].float() if order == "importance" else matrix.float().norm(dim=0)

    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        if "mlp" in what:
            places = ranked(f"{layer}.mlp.down_proj").argsort(descending=True)
            for name in ("gate_proj", "up_proj"):
                _move(weights, f"{layer}.mlp.{name}", places, 0)
            _move(weights, f"{layer}.mlp.down_proj", places, 1)
        if "heads" in what:
            heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
            o = f"{layer}.self_attn.o_proj"
            size = weights[f"{o}.weight"].shape[1] // heads
            ranks = ranked(o).view(groups, heads // groups, size).sum(1)
            order_in_group = ranks.argsort(dim=1, descending=True)
            starts = torch.arange(groups)[:, None] * size
            _move(weights, f"{layer}.self_attn.v_proj", (order_in_group + starts).flatten(), 0)
            by_head = order_in_group.repeat_interleave(heads // groups, 0) + torch.arange(heads)[:, None] * size
            _move(weights, o, by_head.flatten(), 1)
    if "stream" in what:
        names = [f"model.layers.{i}.mlp.up_proj" for i in range(config["num_hidden_layers"])]
        ranks = torch.stack([ranked(name) / ranked(name).mean() for name in names])
        _move_stream(weights, ranks.clamp_min(1e-12).log().sum(0).argsort(descending=True))
    write_directory(model, out, weights)


def _move(weights: dict[str, Tensor], name: str, places: Tensor, axis: int) -> None:
    for part in ("weight", "bias") if axis == 0 else ("weight",):
        if f"{name}.{part}" in weights:
            weights[f"{name}.{part}"] = weights[f"{name}.{part}"].index_select(axis, places).contiguous()


def _move_stream(weights: dict[str, Tensor], places: Tensor) -> None:
    for name, weight in weights.items():
        linear = name.removesuffix(".weight").rpartition(".")[2]
        if linear in _READERS:
            weights[name] = weight[:, places].contiguous()
        elif name.rpartition(".")[0].endswith(_WRITERS) or "layernorm" in name or name == "model.norm.weight":
            weights[name] = weight[places].contiguous()


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.permute", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--order", choices=ORDERS, default="importance")
    parser.add_argument("--what", choices=WHAT, nargs="+", default=["mlp"])
    parsed = parser.parse_args(arguments)
    permute(parsed.model, parsed.out, parsed.order, tuple(parsed.what))
    return 0


if __name__ == "__main__":
    sys.exit(main())
