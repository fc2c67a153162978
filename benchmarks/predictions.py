"""Whether predicted losses tell what changes of single tensors do to a model.

    python -m benchmarks.predictions wide --text TEXT --out predictions

A sample of matrices, every projection in some of the blocks, is rounded one at a time (importance rounding) in a model
that is otherwise in full precision. Predicted is the rise of the loss as ``--metric loss`` has it, measured is the KL
divergence from the original on another text. Written are OUT.md and OUT.json; the table ends with Spearman's rank
correlation, over all changes and by type.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.blockwise.residual import ResidualStream
from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.correlate import spearman
from lieq_edge.evidence.importance.measure import measure_importance
from lieq_edge.evidence.loss.measure import measure_loss
from lieq_edge.llama import encoders as ggml
from lieq_edge.pipeline.planning import calibration_tokens
from lieq_edge.pipeline.validation import validation_text
from lieq_edge.settings import ExportSettings
from lieq_edge.sources import open_source
from lieq_edge.store import Run
from lieq_edge.system.progress import log, set_quiet, stage


@dataclass(frozen=True)
class Change:
    """One matrix in one type: predicted rise of the loss and measured KL divergence, nats a token."""

    tensor: str
    type: str
    predicted: float
    measured: float


class Original:
    """The model in full precision on a text: the input of each block, and its predictions."""

    def __init__(self, model: BlockModel, tokens: Tensor, run: Run) -> None:
        """Run ``tokens`` ``(n, T)``; ``run`` keeps what enters each block."""
        self.model = model
        self.inputs = ResidualStream(model, tokens, run)
        with stage("Running the original", model.n_blocks) as advance:
            hidden = self.inputs.forward(advance)
        # Half of the positions: a large vocabulary's predictions take memory.
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
        for theirs, ours in zip(self.predictions, self._predict(hidden), strict=True):
            total += float((theirs.exp() * (theirs - ours)).sum(-1).double().sum())
            count += len(theirs)
        return total / count


def measure(model_name: str, text: str, args: argparse.Namespace) -> list[Change]:
    """Predict and measure the sample of changes."""
    source = open_source(model_name)
    settings = ExportSettings(
        budget="3", calibration=args.calibration, calibration_tokens=args.calibration_tokens, metric="loss"
    )
    calibration, _ = calibration_tokens(source, settings)
    if calibration is None:
        raise InputError("Predictions need a calibration text.")
    types = args.types.split(",")
    blocks = np.unique(np.linspace(0, source.n_blocks - 1, args.blocks).round().astype(int))
    names = [
        spec.name
        for spec in source.tensors()
        if len(spec.shape) == 2 and spec.name.startswith("blk.") and int(spec.name.split(".")[1]) in blocks
    ]
    sensitivity = measure_loss(source, calibration, dict.fromkeys(names, types)).sensitivity
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
                # Types take turns, and each projection gets another one in the next block.
                kind = types[(place + place // 7) % len(types)]
                matrix = source.read(name)
                packed = ggml.encode(matrix, kind, importance[name])
                values = model.parameter(name, ggml.dequantize(packed, kind, (matrix.shape[0], matrix.shape[1])))
                predicted = sensitivity.losses[name][kind].nearest_loss
                changes.append(Change(name, kind, predicted, original.divergence(name, values)))
                advance()
    return changes


def render(changes: Sequence[Change]) -> str:
    """A table, and rank correlations below it."""
    lines = ["| tensor | type | predicted | measured | ratio |", "|---|---|---|---|---|"]
    for change in sorted(changes, key=lambda c: -c.measured):
        ratio = change.measured / max(change.predicted, 1e-30)
        lines.append(
            f"| {change.tensor} | {change.type} | {change.predicted:.5f} | {change.measured:.5f} | {ratio:.2f} |"
        )
    lines.append("")
    for kind in (None, *dict.fromkeys(change.type for change in changes)):
        some = [change for change in changes if kind in (None, change.type)]
        rho = spearman([c.predicted for c in some], [c.measured for c in some])
        if rho is not None:
            lines.append(f"Spearman's rho of {len(some)} changes{f' to {kind}' if kind else ''}: {rho:.3f}")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="anything that lieq-edge opens and transformers runs")
    parser.add_argument("--text", type=Path, help="text to measure on; default: built in")
    parser.add_argument("--out", type=Path, required=True, help="path without ending for the .md and .json")
    parser.add_argument("--types", default="Q2_K,Q3_K,Q4_K")
    parser.add_argument("--blocks", type=int, default=6, help="blocks to take matrices from, evenly spread")
    parser.add_argument("--calibration", default="docs")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=4)
    args = parser.parse_args()
    set_quiet(False)
    try:
        text, name = validation_text(args.text)
        log(f"Measuring on {name}")
        changes = measure(args.model, text, args)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    table = render(changes)
    args.out.with_suffix(".md").write_text(table)
    args.out.with_suffix(".json").write_text(json.dumps([asdict(change) for change in changes], indent=1) + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
