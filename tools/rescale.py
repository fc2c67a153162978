"""Rescale the channels of a model without changing its outputs, to see whether rounding likes another scale better.

    python -m tools.rescale wide rescaled --power 0.25 --what norms mlp heads

MODEL is a Hugging Face directory of a family with Llama's names of weights. Each column of a matrix is multiplied by a
power of the root mean square of its input, relative to the other columns' (AWQ, arXiv 2306.00978, searches that
power), and what makes the input is divided by the same: a norm before q, k and v or before gate and up (``norms``),
the up-projection before the down-projection (``mlp``), v before o (``heads``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor

from .permute import TOKENS, mean_squares, read_directory, write_directory

WHAT = ("norms", "mlp", "heads")
_NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def rescale(model: Path, out: Path, power: float, what: tuple[str, ...], *, tokens: int = TOKENS) -> None:
    """Write the model with its channels on another scale."""
    config, stored = read_directory(model)
    weights = {name: weight.float() for name, weight in stored.items()}
    squares = mean_squares(model, tokens)

    def factors(energies: Tensor) -> Tensor:
        logs = energies.clamp_min(1e-12).log()
        return (0.5 * power * (logs - logs.mean())).exp().float()

    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        if "norms" in what:
            for norm, readers in _NORMS.items():
                by = factors(squares[f"{layer}.{readers[0]}"])
                weights[f"{layer}.{norm}.weight"] /= by
                for reader in readers:
                    weights[f"{layer}.{reader}.weight"] *= by
        if "mlp" in what:
            by = factors(squares[f"{layer}.mlp.down_proj"])
            weights[f"{layer}.mlp.down_proj.weight"] *= by
            _divide_rows(weights, f"{layer}.mlp.up_proj", by)
        if "heads" in what:
            heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
            o = f"{layer}.self_attn.o_proj"
            # All heads of a group read the same channel of v.
            by = factors(squares[o].view(groups, heads // groups, -1).mean(1))
            weights[f"{o}.weight"] *= by[:, None].expand(-1, heads // groups, -1).flatten()
            _divide_rows(weights, f"{layer}.self_attn.v_proj", by.flatten())
    write_directory(model, out, weights)


def _divide_rows(weights: dict[str, Tensor], name: str, by: Tensor) -> None:
    weights[f"{name}.weight"] /= by[:, None]
    if f"{name}.bias" in weights:
        weights[f"{name}.bias"] /= by


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tools.rescale", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--power", type=float, default=0.25)
    parser.add_argument("--what", choices=WHAT, nargs="+", default=list(WHAT))
    parsed = parser.parse_args(arguments)
    rescale(parsed.model, parsed.out, parsed.power, tuple(parsed.what))
    return 0


if __name__ == "__main__":
    sys.exit(main())
