"""The error of each type by ggml's own encoder and with error feedback, on matrices of real models.

    python -m benchmarks.codebooks wide --text TEXT --out codebooks

In some blocks of the model, a sample of the rows of every matrix is rounded with H = sum x x^T of its inputs on the
built-in text, and judged by the same sum on another text: tr(E H E^T) as a share of tr(W H W^T). Times are processor
time of one thread. Written are OUT.md and OUT.json; types in OUT.json are not measured again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Records, command_line, exit_code, geometric_mean, table, write_markdown
from benchmarks.internals import (
    DAMPING,
    TYPES,
    BlockModel,
    calibration_windows,
    dequantize,
    encode,
    factorise,
    importance_of,
    log,
    round_by_factor,
    stage,
    validation_text,
)
from lieq_edge import open_source

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Matrix:
    """Rows of a matrix, and H of its inputs.

    Attributes:
        name: tensor name.
        rows: float32 ``(rows, columns)``.
        learned, judged: H on the two texts.
    """

    name: str
    rows: Floats
    learned: Floats
    judged: Floats

    def error(self, values: Floats) -> float:
        """tr(E H E^T) over tr(W H W^T)."""

        def energy(part: Floats) -> float:
            return float(np.einsum("ij,ij->", part @ self.judged, part, dtype=np.float64))

        return energy(self.rows - values) / energy(self.rows)


@dataclass(frozen=True)
class Error:
    """Errors of one matrix and type.

    Attributes:
        type: ggml's name.
        tensor: tensor name.
        encoder, feedback: errors, as ``Matrix.error``.
        encoder_ns, feedback_ns: nanoseconds a weight.
    """

    type: str
    tensor: str
    encoder: float
    feedback: float
    encoder_ns: float
    feedback_ns: float


def collect(model_name: str, text: str, args: argparse.Namespace) -> list[Matrix]:
    """Matrices of some blocks with their inputs."""
    source = open_source(model_name)
    windows, _ = calibration_windows(source, args.calibration, tokens=args.calibration_tokens)
    context = windows.shape[1]
    ids = source.tokenize(text)
    judging = np.array(ids[: min(args.chunks, len(ids) // context) * context]).reshape(-1, context)
    model = BlockModel(source, threads=args.threads)
    chosen = {round(place) for place in np.linspace(0, model.n_blocks - 1, args.blocks + 2)[1:-1]}
    matrices = []
    with torch.no_grad():
        hidden = model.embed(torch.from_numpy(np.concatenate([windows, judging])).long()).float()
        for index in range(max(chosen) + 1):
            with model.block(index) as module:
                linears = model.linears(module, index) if index in chosen else {}
                sums = {
                    name: torch.zeros(2, linear.in_features, linear.in_features) for name, linear in linears.items()
                }
                judged = [False]

                def add(name: str, x: torch.Tensor, sums: Any = sums, judged: list[bool] = judged) -> None:
                    flat = x.flatten(0, -2).float()
                    sums[name][int(judged[0])] += flat.T @ flat

                hooks = [
                    linear.register_forward_pre_hook(lambda _, inputs, name=name, add=add: add(name, inputs[0]))
                    for name, linear in linears.items()
                ]
                for part in (slice(0, len(windows)), slice(len(windows), None)):
                    judged[0] = part.start > 0
                    model.advance(module, index, hidden[part])
                for hook in hooks:
                    hook.remove()
                for name in linears:
                    weights = source.read(name)
                    rows = np.sort(np.random.default_rng(0).permutation(len(weights))[: args.rows])
                    matrices.append(Matrix(name, np.ascontiguousarray(weights[rows]), *sums[name].numpy()))
    return matrices


def measure(matrix: Matrix, kind: str) -> Error:
    """Round one matrix in both ways."""
    shape = (len(matrix.rows), matrix.rows.shape[1])
    importance = importance_of(matrix.learned.diagonal())
    factor = factorise(matrix.learned, DAMPING)
    # Compiles what is compiled once.
    round_by_factor(matrix.rows[:1], factor, kind, threads=1)
    start = time.process_time()
    packed = encode(matrix.rows, kind, importance, 1)
    middle = time.process_time()
    rounded = round_by_factor(matrix.rows, factor, kind, threads=1, keep_values=False).packed
    stop = time.process_time()
    errors = [matrix.error(dequantize(found, kind, shape)) for found in (packed, rounded)]
    per_weight = [1e9 * seconds / matrix.rows.size for seconds in (middle - start, stop - middle)]
    return Error(kind, matrix.name, *errors, *per_weight)


def render(errors: Sequence[Error]) -> str:
    """A row for each type, smallest first."""
    rows = []
    for kind in sorted({error.type for error in errors}, key=lambda name: TYPES[name].bpw):
        found = [error for error in errors if error.type == kind]
        encoder, feedback = (geometric_mean(getattr(e, way) for e in found) for way in ("encoder", "feedback"))
        ratios = [error.feedback / error.encoder for error in found]
        times = (float(np.median([getattr(e, way) for e in found])) for way in ("encoder_ns", "feedback_ns"))
        rows.append(
            [
                kind,
                f"{TYPES[kind].bpw:.2f}",
                f"{encoder:.4f}",
                f"{feedback:.4f}",
                f"{geometric_mean(ratios):.3f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                *(f"{nanoseconds:.0f}" for nanoseconds in times),
            ]
        )
    head = ("type", "bits", "error, encoder", "error, feedback", "ratio", "of matrices", "ns, encoder", "ns, feedback")
    return table(head, rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(
        __doc__,
        "model",
        "--text",
        "--out",
        "--calibration",
        "--calibration-tokens",
        "--chunks",
        "--threads",
        calibration="builtin",
        calibration_tokens=4096,
        chunks=4,
    )
    kinds = "IQ2_XXS,IQ2_XS,IQ2_S,Q2_K,IQ3_XXS,IQ3_S,Q3_K,IQ4_XS,IQ4_NL,Q4_K"
    parser.add_argument("--types", default=kinds, help="ggml types to round to")
    parser.add_argument("--blocks", type=int, default=2, help="blocks to measure, evenly spread")
    parser.add_argument("--rows", type=int, default=128, help="rows of each matrix")
    args = parser.parse_args(arguments)

    def compare() -> None:
        errors = Records(args.out.with_suffix(".json"), Error)
        kinds = [kind for kind in args.types.split(",") if kind not in {error.type for error in errors}]
        if kinds:
            text, name = validation_text(args.text)
            log(f"Judging on {name}")
            matrices = collect(args.model, text, args)
            with stage("Types", len(kinds)) as advance:
                for kind in kinds:
                    fitting = [matrix for matrix in matrices if TYPES[kind].fits(matrix.rows.shape[1])]
                    errors.add(*(measure(matrix, kind) for matrix in fitting))
                    advance()
        write_markdown(args.out, render([*errors]))

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
