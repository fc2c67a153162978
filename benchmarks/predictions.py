"""Predicted losses of single changed tensors beside the measured ones.

    python -m benchmarks.predictions wide --text TEXT --out predictions

A sample of matrices, every projection in some of the blocks, is rounded one at a time (importance rounding) in a model
that is otherwise in full precision. Predicted is the rise of the loss by which ``--metric loss`` allocates, measured is
the KL divergence from the original on another text. Written are OUT.md and OUT.json; the table ends with Spearman's
rank correlation, over all changes and by type.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import command_line, exit_code, table, write_json, write_markdown
from benchmarks.internals import (
    BlockModel,
    ResidualStream,
    Run,
    calibration_windows,
    dequantize,
    encode,
    log,
    measure_importance,
    predict_losses,
    spearman,
    stage,
    validation_text,
)
from lieq_edge import open_source


@dataclass(frozen=True)
class Change:
    """One matrix in one type: predicted loss and measured KL divergence, both in nats a token."""

    tensor: str
    type: str
    predicted: float
    measured: float


class Original:
    """The model in full precision on a text: the input of each block, and its predictions."""

    def __init__(self, model: BlockModel, tokens: Tensor, run: Run) -> None:
        """Run the windows ``tokens`` ``(n, T)``; ``run`` stores the input of each block."""
        self.model = model
        self.inputs = ResidualStream(model, tokens, run)
        with stage("Running the original", model.n_blocks) as advance:
            hidden = self.inputs.forward(advance)
        # Only half of the positions, because the predictions of a large vocabulary take memory.
        self.scored = slice(tokens.shape[1] // 2, tokens.shape[1])
        self.predictions = self._predict(hidden)

    def _predict(self, hidden: Tensor) -> list[Tensor]:
        flat = hidden[:, self.scored].flatten(0, 1)
        return [torch.log_softmax(logits.float(), -1) for _, logits in self.model.logit_chunks(flat)]

    def divergence(self, name: str, values: Tensor) -> float:
        """KL divergence (nats a token) when the weights ``name`` are ``values``."""
        model, start = self.model, int(name.split(".")[1])
        hidden = self.inputs.take(start)
        for index in range(start, model.n_blocks):
            with model.block(index) as module:
                if index == start:
                    model.linears(module, index)[name].weight.copy_(values)
                model.advance(module, index, hidden)
        total, count = 0.0, 0
        for original, changed in zip(self.predictions, self._predict(hidden), strict=True):
            total += float((original.exp() * (original - changed)).sum(-1).double().sum())
            count += len(original)
        return total / count


def measure(model_name: str, text: str, args: argparse.Namespace) -> list[Change]:
    """Predict and measure the sample of changes."""
    source = open_source(model_name)
    calibration, _ = calibration_windows(source, args.calibration, tokens=args.calibration_tokens)
    types = args.types.split(",")
    blocks = np.unique(np.linspace(0, source.n_blocks - 1, args.blocks).round().astype(int))
    names = [
        spec.name
        for spec in source.tensors()
        if len(spec.shape) == 2 and spec.name.startswith("blk.") and int(spec.name.split(".")[1]) in blocks
    ]
    losses = predict_losses(source, calibration, dict.fromkeys(names, types))
    importance = measure_importance(source, calibration)
    ids = source.tokenize(text)
    count = min(args.chunks, len(ids) // args.context)
    tokens = torch.tensor(ids[: count * args.context]).view(count, args.context)
    model = BlockModel(source, keep_blocks=False)
    changes = []
    with torch.no_grad(), Run(None) as run:
        original = Original(model, tokens, run)
        with stage("Changing single tensors", len(names)) as advance:
            for place, name in enumerate(names):
                # Types alternate, and each projection gets another one in the next block.
                kind = types[(place + place // 7) % len(types)]
                matrix = source.read(name)
                packed = encode(matrix, kind, importance[name])
                values = model.parameter(name, dequantize(packed, kind, (matrix.shape[0], matrix.shape[1])))
                changes.append(Change(name, kind, losses[name][kind], original.divergence(name, values)))
                advance()
    return changes


def render(changes: Sequence[Change]) -> str:
    """A table, and rank correlations below it."""
    rows = [
        (c.tensor, c.type, f"{c.predicted:.5f}", f"{c.measured:.5f}", f"{c.measured / max(c.predicted, 1e-30):.2f}")
        for c in sorted(changes, key=lambda c: -c.measured)
    ]
    lines = [table(("tensor", "type", "predicted", "measured", "ratio"), rows), ""]
    for kind in (None, *dict.fromkeys(change.type for change in changes)):
        of_kind = [change for change in changes if kind in (None, change.type)]
        rho = spearman([c.predicted for c in of_kind], [c.measured for c in of_kind])
        if rho is not None:
            lines.append(f"Spearman's rho of {len(of_kind)} changes{f' to {kind}' if kind else ''}: {rho:.3f}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(
        __doc__, "model", "--text", "--out", "--calibration", "--calibration-tokens", "--context", "--chunks", chunks=4
    )
    parser.add_argument("--types", default="Q2_K,Q3_K,Q4_K", help="ggml types, with commas between them")
    parser.add_argument("--blocks", type=int, default=6, help="blocks to take matrices from, evenly spread")
    args = parser.parse_args(arguments)

    def compare() -> None:
        text, name = validation_text(args.text)
        log(f"Measuring on {name}")
        changes = measure(args.model, text, args)
        write_json(args.out.with_suffix(".json"), [asdict(change) for change in changes])
        write_markdown(args.out, render(changes))

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
