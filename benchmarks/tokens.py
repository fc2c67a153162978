"""What feedback gains over importance rounding, by the number of calibration tokens and the width of the rows.

    python -m benchmarks.tokens wide qwen.gguf --text TEXT --out tokens

Some blocks of each model are looked at. The rows of every matrix that a K-quant fits are rounded with H of more and
more tokens of the calibration text, and judged by the loss-weighted error on another text: the ratio of the error with
feedback to that with importance rounding. Written are OUT.md, OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.errors import InputError
from lieq_edge.evidence.loss.predictions import sample_rows
from lieq_edge.evidence.loss.weights import Readers, measure_loss_weights
from lieq_edge.gptq.factor import factorise
from lieq_edge.gptq.feedback import DAMPING, round_by_factor
from lieq_edge.gptq.hessian import Moments, importance_of, squared_norms, tokens_of
from lieq_edge.llama import encoders as ggml
from lieq_edge.pipeline.planning import calibration_tokens
from lieq_edge.pipeline.validation import validation_text
from lieq_edge.settings import ExportSettings
from lieq_edge.sources import open_source
from lieq_edge.system.progress import log, set_quiet, stage


@dataclass(frozen=True)
class Gain:
    """Error of a matrix with feedback over that with importance rounding, judged on another text."""

    model: str
    tensor: str
    columns: int
    tokens: int
    ratio: float


class Watcher:
    """Listens to a block and rounds its matrices with more and more tokens."""

    def __init__(self, linears: dict[str, nn.Linear], windows: int, counts: list[int], context: int, kind: str) -> None:
        """Watch ``linears``, to round them to the type ``kind``.

        The first ``windows`` sequences, of ``context`` tokens, calibrate, ``counts`` of them at a time; others judge.
        """
        self.linears = {name: linear for name, linear in linears.items() if linear.in_features % 256 == 0}
        self.windows = windows
        self.counts = counts
        self.context = context
        self.kind = kind
        self.inputs: dict[str, list[tuple[slice, Tensor, Tensor]]] = {name: [] for name in self.linears}
        self.gains: list[Gain] = []

    def add(self, batch: slice, received: dict[Readers, tuple[Tensor, Tensor]]) -> None:
        """Keep what the matrices receive."""
        for names, (x, weights) in received.items():
            if readers := [name for name in names if name in self.inputs]:
                kept = batch, x.bfloat16(), weights
                for name in readers:
                    self.inputs[name].append(kept)

    def done(self, channels: dict[str, Tensor]) -> None:
        """Round."""
        for name, linear in self.linears.items():
            rows, counts = sample_rows(channels[name].numpy())
            with torch.autocast("cpu", enabled=False):
                self._round(name, np.ascontiguousarray(linear.weight.numpy()[rows]), counts)
            del self.inputs[name]

    def _round(self, name: str, sample: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> None:
        kind = self.kind
        judge = self._moments(name, self.windows, None)
        judged = judge.merge()

        def error(values: Any) -> float:
            missed = sample - values
            return float(np.einsum("ij,ij->i", missed @ judged, missed) @ counts)

        for count in self.counts:
            moments = self._moments(name, 0, count).merge()

            importance = importance_of(moments.diagonal())
            nearest = ggml.dequantize(ggml.encode(sample, kind, importance), kind, (len(sample), sample.shape[1]))
            rounded = round_by_factor(sample, factorise(moments, DAMPING), kind)
            ratio = error(rounded.values) / error(nearest)
            columns, tokens = sample.shape[1], count * self.context
            self.gains.append(Gain("", name, columns, tokens, ratio))

    def _moments(self, name: str, first: int, last: int | None) -> Moments:
        """H over the sequences from ``first`` to ``last``."""
        columns = self.linears[name].in_features
        moments = Moments.zeros(columns)
        for batch, x, weights in self.inputs[name]:
            start, stop = max(batch.start, first), min(batch.stop, last if last is not None else batch.stop)
            if start < stop:
                part = slice(start - batch.start, stop - batch.start)
                for some in tokens_of(slice(start, stop), squared_norms(x[part]), weights[part], frozenset()):
                    moments.add(some.of(x[part]), some.weights, held_out=some.held_out)
        return moments.whole()


class Deaf:
    """Stands for the watcher of a block that is not looked at."""

    def add(self, batch: slice, received: dict[Readers, tuple[Tensor, Tensor]]) -> None:
        """Nothing."""

    def done(self, channels: dict[str, Tensor]) -> None:
        """Nothing."""


def measure(model_name: str, text: str, args: argparse.Namespace) -> list[Gain]:
    """Gains of one model."""
    source = open_source(model_name)
    wanted = [int(count) for count in args.tokens.split(",")]
    settings = ExportSettings(budget="3", calibration=args.calibration, calibration_tokens=max(wanted), metric="loss")
    calibration, _ = calibration_tokens(source, settings)
    if calibration is None:
        raise InputError("The benchmark needs a calibration text.")
    # Mixed text comes one kind after the other, and few tokens must be of both.
    calibration = np.random.default_rng(0).permutation(calibration)
    context = calibration.shape[1]
    counts = [count // context for count in wanted]
    ids = source.tokenize(text)
    number = min(args.chunks, len(ids) // context)
    judging = torch.tensor(ids[: number * context]).view(number, context)
    model = BlockModel(source)
    places = np.linspace(0, model.n_blocks - 1, args.blocks + 2)[1:-1].round().astype(int)
    watchers: list[Watcher] = []

    def listen(module: nn.Module, index: int) -> Watcher | Deaf:
        if index not in places:
            return Deaf()
        watchers.append(Watcher(model.linears(module, index), len(calibration), counts, context, args.type))
        return watchers[-1]

    measure_loss_weights(model, torch.cat([torch.from_numpy(calibration), judging]), listen=listen)
    label = Path(model_name).stem
    return [Gain(**asdict(gain) | {"model": label}) for watcher in watchers for gain in watcher.gains]


def summary(gains: list[Gain]) -> dict[tuple[str, int], dict[int, float]]:
    """Geometric mean of the ratios by model and width, then by tokens."""
    found: dict[tuple[str, int], dict[int, list[float]]] = {}
    for gain in gains:
        found.setdefault((gain.model, gain.columns), {}).setdefault(gain.tokens, []).append(gain.ratio)
    return {
        key: {tokens: float(np.exp(np.mean(np.log(ratios)))) for tokens, ratios in sorted(by_tokens.items())}
        for key, by_tokens in sorted(found.items())
    }


def render(gains: list[Gain]) -> str:
    """A row a width, a column a number of tokens."""
    tokens = sorted({gain.tokens for gain in gains})
    lines = ["| model | columns | " + " | ".join(f"{count} tokens" for count in tokens) + " |"]
    lines.append("|" + "---|" * (2 + len(tokens)))
    for (model, columns), ratios in summary(gains).items():
        cells = (f"{ratios[count]:.3f}" if count in ratios else "" for count in tokens)
        lines.append(f"| {model} | {columns} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(gains: list[Gain], path: Path) -> None:
    """The ratios over tokens a column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (model, columns), ratios in summary(gains).items():
        axes.plot(
            [count / columns for count in ratios], list(ratios.values()), "o-", label=f"{model}, {columns} columns"
        )
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(xscale="log", xlabel="calibration tokens / columns", ylabel="error, feedback / importance rounding")
    axes.set_title(f"{len({gain.tensor for gain in gains})} matrices, judged on another text")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="anything that lieq-edge opens and transformers runs")
    parser.add_argument("--text", type=Path, help="text to judge on; default: built in")
    parser.add_argument("--out", type=Path, required=True, help="path without ending for the .md, .json and .png")
    parser.add_argument("--type", default="Q3_K")
    parser.add_argument("--tokens", default="1024,2048,4096,8192,16384")
    parser.add_argument("--blocks", type=int, default=3, help="blocks to look at, evenly spread")
    parser.add_argument("--calibration", default="docs")
    parser.add_argument("--chunks", type=int, default=8, help="windows to judge on")
    args = parser.parse_args()
    set_quiet(False)
    stored = args.out.with_suffix(".json")
    gains = [Gain(**gain) for gain in json.loads(stored.read_text())] if stored.exists() else []
    try:
        text, name = validation_text(args.text)
        log(f"Judging on {name}")
        with stage("Models", len(args.models)) as advance:
            for model in args.models:
                if Path(model).stem not in {gain.model for gain in gains}:
                    gains += measure(model, text, args)
                    stored.write_text(json.dumps([asdict(gain) for gain in gains], indent=1) + "\n")
                advance()
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    args.out.with_suffix(".md").write_text(render(gains))
    plot(gains, args.out.with_suffix(".png"))
    print(render(gains))
    return 0


if __name__ == "__main__":
    sys.exit(main())
