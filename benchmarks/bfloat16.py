"""Whether importance from bfloat16 products changes files more than other noise of its size does.

    python -m benchmarks.bfloat16 wide --text TEXT --work work --out bfloat16

At each size a file is made with importance from float32 products, one from bfloat16 products, and, as controls, some
with the float32 importance times random factors that differ from one as much as the bfloat16 importance does (a root
mean square over all columns). All are scored against the model in full precision. A quantiser decides yes or no, so
that any change of its input, however small, changes the file's score a little, up or down. The question is whether
bfloat16 changes it by more, or in one direction.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.harness import command_line, exit_code, geometric_mean, table, write_json, write_markdown
from benchmarks.internals import (
    Importance,
    analyze,
    calibration_windows,
    encode_tensors,
    has_bfloat16,
    log,
    measure_importance,
    validation_text,
    write_model,
)
from benchmarks.reference import reference_of
from lieq_edge import InputError, PlanOptions, make_plan, open_source


@dataclass(frozen=True)
class Effect:
    """KL divergence of files by importance.

    Attributes:
        difference: root mean square difference of the importances; see ``difference_of``.
        budgets: budgets of the files.
        kld: mean KL divergence in nats a token, by name of the importance, one value for each budget.
    """

    difference: float
    budgets: list[str]
    kld: dict[str, list[float]]


def difference_of(exact: Importance, other: Importance) -> float:
    """Root mean square of the logarithm of the ratio of two importances, over all columns of all matrices."""
    logs = np.concatenate([np.log(other[name] / values).ravel() for name, values in exact.items()])
    return float(np.sqrt(np.mean(logs.astype(np.float64) ** 2)))


def disturbed(exact: Importance, size: float, seed: int) -> Importance:
    """Importance times exp(noise), the noise normal with this standard deviation."""
    rng = np.random.default_rng(seed)
    return {
        name: (values * np.exp(rng.normal(0.0, size, values.shape))).astype(np.float32)
        for name, values in exact.items()
    }


def measure(args: argparse.Namespace) -> Effect:
    """Make and score all files."""
    source = open_source(args.model)
    if not has_bfloat16():
        raise InputError("This processor has no bfloat16 products; there is nothing to compare.")
    windows, _ = calibration_windows(source, args.calibration, tokens=args.calibration_tokens)
    text, _ = validation_text(args.text)
    _, reference = reference_of(source, text, args.work, context=args.context, chunks=args.chunks)
    exact = measure_importance(source, windows, bfloat16=False)
    quick = measure_importance(source, windows, bfloat16=True)
    difference = difference_of(exact, quick)
    log(f"The importances differ by {difference:.1e}")
    variants: dict[str, Importance] = {"float32": exact, "bfloat16": quick}
    variants |= {f"noise {seed}": disturbed(exact, difference, seed) for seed in range(args.controls)}
    diagnostics = analyze(source, metrics={"geometry"})
    path = args.work / "bfloat16.gguf"
    kld: dict[str, list[float]] = {name: [] for name in variants}
    for budget in args.budgets:
        plan = make_plan(diagnostics, budget, PlanOptions(metric="geometry"))
        for name, importance in variants.items():
            path.unlink(missing_ok=True)
            write_model(path, source, plan, encode_tensors(source, plan, importance), rounding="imatrix")
            kld[name].append(reference.score(path).kld)
            log(f"{budget}, {name}: {kld[name][-1]:.5f}")
    path.unlink(missing_ok=True)
    return Effect(difference, args.budgets, kld)


def render(effect: Effect) -> str:
    """Ratios to float32, and their geometric mean."""
    rows = [["float32, KLD", *(f"{value:.4f}" for value in effect.kld["float32"]), ""]]
    for name, values in effect.kld.items():
        if name != "float32":
            ratios = [value / exact for value, exact in zip(values, effect.kld["float32"], strict=True)]
            rows.append([name, *(f"{100 * (ratio - 1):+.2f} %" for ratio in [*ratios, geometric_mean(ratios)])])
    text = table(("importance", *effect.budgets, "geometric mean"), rows)
    return f"{text}\n\nThe importances differ by {effect.difference:.1e} (root mean square).\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(
        __doc__, "model", "--text", "--out", "--work", "--calibration", "--calibration-tokens", "--context", "--chunks"
    )
    budgets = ["2.8bpw", "3.1bpw", "3.4bpw", "3.7bpw", "4.0bpw", "4.3bpw"]
    parser.add_argument("--budgets", nargs="+", default=budgets, help="budgets of the files")
    parser.add_argument("--controls", type=int, default=2, help="files with noise at each budget")
    args = parser.parse_args(arguments)

    def compare() -> None:
        effect = measure(args)
        write_json(args.out.with_suffix(".json"), asdict(effect))
        write_markdown(args.out, render(effect))

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
