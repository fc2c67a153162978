"""The gain of feedback over importance rounding, by the number of calibration tokens and the width of the rows.

    python -m benchmarks.tokens wide qwen.gguf --text TEXT --out tokens

In some blocks of each model, the rows of every matrix that a K-quant fits are rounded with H of more and more tokens of
the calibration text, and judged by the loss-weighted error on another text: the ratio of the error with feedback to the
error with importance rounding. Written are OUT.md, OUT.json and OUT.png; models in OUT.json are not measured again.
With ``--rank 16`` the correlations in H have rank columns/16, and what they leave out stands on the diagonal.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.harness import Records, command_line, exit_code, geometric_mean, table, write_markdown
from benchmarks.internals import (
    DAMPING,
    BlockModel,
    Hessian,
    InputGroup,
    Routed,
    calibration_windows,
    dequantize,
    encode,
    factorise,
    importance_of,
    log,
    measure_loss_weights,
    round_by_factor,
    sample_rows,
    squared_norms,
    stage,
    tokens_of,
    validation_text,
)
from lieq_edge import open_source


@dataclass(frozen=True)
class Gain:
    """Error of a matrix with feedback over that with importance rounding, judged on another text."""

    model: str
    tensor: str
    columns: int
    tokens: int
    ratio: float


def low_rank(hessian: npt.NDArray[np.float32], rank: int) -> npt.NDArray[np.float32]:
    """H ``(n, n)`` whose correlations have the ``rank`` largest eigenvalues, and one mean of the others."""
    diagonal = hessian.diagonal()
    roots = np.sqrt(np.maximum(diagonal, 1e-9 * diagonal.mean()))
    values, vectors = torch.linalg.eigh(torch.from_numpy(hessian / roots[:, None] / roots))
    largest = vectors[:, -rank:]
    correlations = (largest * (values[-rank:] - values[:-rank].mean())) @ largest.T
    correlations.fill_diagonal_(1.0)
    result: npt.NDArray[np.float32] = correlations.numpy() * roots[:, None] * roots
    return result


class Watcher:
    """Collects the inputs of a block's matrices and rounds these with more and more tokens."""

    def __init__(
        self, linears: dict[str, nn.Linear], windows: int, counts: list[int], context: int, kind: str, rank: int | None
    ) -> None:
        """Prepare for one block.

        Args:
            linears: linear layers of the block by tensor name.
            windows: number of sequences to calibrate on; those after them judge.
            counts: numbers of the first sequences to calibrate on, one after the other.
            context: tokens of a sequence.
            kind: ggml type to round to.
            rank: number by which columns are divided to get the rank of the correlations in H; None leaves H as it is.
        """
        self.linears = {name: linear for name, linear in linears.items() if linear.in_features % 256 == 0}
        self.windows = windows
        self.counts = counts
        self.context = context
        self.kind = kind
        self.rank = rank
        self.inputs: dict[str, list[tuple[slice, Tensor, Tensor]]] = {name: [] for name in self.linears}
        self.gains: list[Gain] = []

    def add(self, batch: slice, received: dict[InputGroup, tuple[Tensor, Tensor]]) -> None:
        """Store the inputs of the matrices and the loss weights of their tokens."""
        for names, (x, weights) in received.items():
            if readers := [name for name in names if name in self.inputs]:
                entry = batch, x.bfloat16(), weights
                for name in readers:
                    self.inputs[name].append(entry)

    def add_routed(self, routed: Routed, weights: dict[InputGroup, Tensor]) -> None:
        """Experts are left out."""

    def done(self, channels: dict[str, Tensor]) -> None:
        """Round the matrices, once the whole batch has arrived."""
        for name, linear in self.linears.items():
            rows, counts = sample_rows(channels[name].numpy())
            with torch.autocast("cpu", enabled=False):
                self._round(name, np.ascontiguousarray(linear.weight.numpy()[rows]), counts)
            del self.inputs[name]

    def _round(self, name: str, sample: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> None:
        kind = self.kind
        held_out = self._hessian(name, self.windows, None)

        def error(values: Any) -> float:
            errors = sample - values
            return float(np.einsum("ij,ij->i", errors @ held_out, errors) @ counts)

        for count in self.counts:
            hessian = self._hessian(name, 0, count)
            importance = importance_of(hessian.diagonal())
            nearest = dequantize(encode(sample, kind, importance), kind, (len(sample), sample.shape[1]))
            if self.rank is not None:
                hessian = low_rank(hessian, len(hessian) // self.rank)
            rounded = round_by_factor(sample, factorise(hessian, DAMPING), kind)
            ratio = error(rounded.values) / error(nearest)
            columns, tokens = sample.shape[1], count * self.context
            self.gains.append(Gain("", name, columns, tokens, ratio))

    def _hessian(self, name: str, first: int, last: int | None) -> Any:
        """H over the sequences from ``first`` to ``last``; None takes all to the end."""
        moments = Hessian.zeros(self.linears[name].in_features)
        for batch, x, weights in self.inputs[name]:
            start, stop = max(batch.start, first), min(batch.stop, last if last is not None else batch.stop)
            if start < stop:
                part = slice(start - batch.start, stop - batch.start)
                for tokens in tokens_of(slice(start, stop), squared_norms(x[part]), weights[part], frozenset()):
                    moments.add(tokens.of(x[part]), tokens.weights, held_out=tokens.held_out)
        return moments.whole().merge()


class Ignored:
    """Stands for the watcher of a block that is left out."""

    def add(self, batch: slice, received: dict[InputGroup, tuple[Tensor, Tensor]]) -> None:
        """Do nothing."""

    def add_routed(self, routed: Routed, weights: dict[InputGroup, Tensor]) -> None:
        """Experts are left out."""

    def done(self, channels: dict[str, Tensor]) -> None:
        """Do nothing."""


def measure(model_name: str, text: str, args: argparse.Namespace) -> list[Gain]:
    """Gains of one model."""
    source = open_source(model_name)
    token_counts = [int(count) for count in args.tokens.split(",")]
    calibration, _ = calibration_windows(source, args.calibration, tokens=max(token_counts))
    # Mixed text comes one kind after the other, and a few tokens must be of both.
    calibration = np.random.default_rng(0).permutation(calibration)
    context = calibration.shape[1]
    counts = [count // context for count in token_counts]
    ids = source.tokenize(text)
    number = min(args.chunks, len(ids) // context)
    judging = torch.tensor(ids[: number * context]).view(number, context)
    model = BlockModel(source)
    places = np.linspace(0, model.n_blocks - 1, args.blocks + 2)[1:-1].round().astype(int)
    watchers: list[Watcher] = []

    def listen(module: nn.Module, index: int) -> Watcher | Ignored:
        if index not in places:
            return Ignored()
        watchers.append(Watcher(model.linears(module, index), len(calibration), counts, context, args.type, args.rank))
        return watchers[-1]

    measure_loss_weights(model, torch.cat([torch.from_numpy(calibration), judging]), listen=listen)
    label = label_of(model_name, args)
    return [Gain(**asdict(gain) | {"model": label}) for watcher in watchers for gain in watcher.gains]


def label_of(model_name: str, args: argparse.Namespace) -> str:
    """The model in tables, with the rank."""
    return Path(model_name).stem + (f", rank n/{args.rank}" if args.rank is not None else "")


def summary(gains: list[Gain]) -> dict[tuple[str, int], dict[int, float]]:
    """Geometric mean of the ratios by model and width, then by tokens."""
    groups: dict[tuple[str, int], dict[int, list[float]]] = {}
    for gain in gains:
        groups.setdefault((gain.model, gain.columns), {}).setdefault(gain.tokens, []).append(gain.ratio)
    return {
        key: {tokens: geometric_mean(ratios) for tokens, ratios in sorted(by_tokens.items())}
        for key, by_tokens in sorted(groups.items())
    }


def render(gains: list[Gain]) -> str:
    """A row for each width, a column for each number of tokens."""
    tokens = sorted({gain.tokens for gain in gains})
    rows = [
        [model, str(columns), *(f"{ratios[count]:.3f}" if count in ratios else "" for count in tokens)]
        for (model, columns), ratios in summary(gains).items()
    ]
    return table(("model", "columns", *(f"{count} tokens" for count in tokens)), rows) + "\n"


def plot(gains: list[Gain], path: Path) -> None:
    """Draw the ratios over tokens for each column."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, "--text", "--out", "--calibration", "--chunks", chunks=8)
    parser.add_argument("models", nargs="+", help="Hugging Face directories, .gguf files, or demo")
    parser.add_argument("--type", default="Q3_K", help="ggml type to round to")
    parser.add_argument("--tokens", default="1024,2048,4096,8192,16384", help="numbers of calibration tokens")
    parser.add_argument("--blocks", type=int, default=3, help="blocks to measure, evenly spread")
    parser.add_argument("--rank", type=int, help="correlations of rank columns/RANK, the rest of H on its diagonal")
    args = parser.parse_args(arguments)
    if args.rank is not None and args.rank < 2:
        parser.error("a rank of all columns leaves nothing out; give --rank 2 or more")

    def compare() -> None:
        gains = Records(args.out.with_suffix(".json"), Gain)
        text, name = validation_text(args.text)
        log(f"Judging on {name}")
        with stage("Models", len(args.models)) as advance:
            for model in args.models:
                if label_of(model, args) not in {gain.model for gain in gains}:
                    gains.add(*measure(model, text, args))
                advance()
        plot([*gains], args.out.with_suffix(".png"))
        write_markdown(args.out, render([*gains]))

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
