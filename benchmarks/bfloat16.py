"""Does importance from bfloat16 products move the finished file, and more than other noise of that size does?

    python -m benchmarks.bfloat16 wide --text TEXT --work work --out bfloat16

At each size a file is made with importance from float32 products, one from bfloat16 products, and, as controls, some
with the float32 importance times random factors that differ from one as much as the bfloat16 importance does (a root
mean square over all columns). All are scored against the model in full precision. A quantiser takes yes-or-no
decisions, so that any change of its input, however small, moves a file a little, up or down; what counts is whether
bfloat16 moves it further, or in one direction.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.reference import reference_of
from lieq_edge.allocate.plan import PlanOptions, make_plan
from lieq_edge.blockwise.precision import has_bfloat16
from lieq_edge.errors import InputError
from lieq_edge.evidence.importance.measure import measure_importance
from lieq_edge.pipeline.planning import analyze_model, calibration_tokens
from lieq_edge.pipeline.validation import validation_text
from lieq_edge.pipeline.write import write_model
from lieq_edge.rounding.importance import Importance, encode_tensors
from lieq_edge.settings import ExportSettings
from lieq_edge.sources import open_source
from lieq_edge.system.progress import log, set_quiet


def differences(exact: Importance, other: Importance) -> float:
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


def measure(args: argparse.Namespace) -> dict[str, object]:
    """KL divergence by variant and size."""
    source = open_source(args.model)
    settings = ExportSettings(
        budget="3", calibration=args.calibration, calibration_tokens=args.calibration_tokens, cache=False
    )
    tokens, _ = calibration_tokens(source, settings)
    if tokens is None:
        raise InputError("The comparison needs a calibration text.")
    if not has_bfloat16():
        raise InputError("This processor has no bfloat16 products; there is nothing to compare.")
    text, _ = validation_text(args.text)
    _, reference = reference_of(source, text, args.work, context=args.context, chunks=args.chunks)
    exact = measure_importance(source, tokens, bfloat16=False)
    quick = measure_importance(source, tokens, bfloat16=True)
    size = differences(exact, quick)
    log(f"The importances differ by {size:.1e}")
    variants: dict[str, Importance] = {"float32": exact, "bfloat16": quick}
    variants |= {f"noise {seed}": disturbed(exact, size, seed) for seed in range(args.controls)}
    diagnostics = analyze_model(source, settings)
    path = args.work / "bfloat16.gguf"
    found: dict[str, list[float]] = {name: [] for name in variants}
    for budget in args.budgets:
        plan = make_plan(diagnostics, budget, PlanOptions(metric="geometry"))
        for name, importance in variants.items():
            path.unlink(missing_ok=True)
            encoded = encode_tensors(source, plan, importance)
            write_model(path, source, plan, encoded, calibration=None, rounding="imatrix")
            found[name].append(reference.score(path).kld)
            log(f"{budget}, {name}: {found[name][-1]:.5f}")
    path.unlink(missing_ok=True)
    return {"difference": size, "budgets": args.budgets, "kld": found}


def render(found: dict[str, object]) -> str:
    """Ratios to float32, and their geometric mean."""
    budgets, kld = found["budgets"], found["kld"]
    assert isinstance(budgets, list)
    assert isinstance(kld, dict)
    lines = [
        f"| importance | {' | '.join(budgets)} | geometric mean |",
        f"|---|{'---|' * (len(budgets) + 1)}",
        f"| float32, KLD | {' | '.join(f'{value:.4f}' for value in kld['float32'])} | |",
    ]
    for name, values in kld.items():
        if name != "float32":
            ratios = np.array(values) / np.array(kld["float32"])
            shown = " | ".join(f"{100 * (ratio - 1):+.2f} %" for ratio in ratios)
            lines.append(f"| {name} | {shown} | {100 * (np.exp(np.log(ratios).mean()) - 1):+.2f} % |")
    return "\n".join(lines) + f"\n\nThe importances differ by {found['difference']:.1e} (root mean square).\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="anything that lieq-edge opens and transformers runs")
    parser.add_argument("--text", type=Path, help="text to score on; default: built in")
    parser.add_argument("--out", type=Path, required=True, help="path without ending for the .md and .json")
    parser.add_argument("--work", type=Path, required=True, help="folder for the reference and its logits (GB)")
    parser.add_argument("--budgets", nargs="+", default=["2.8bpw", "3.1bpw", "3.4bpw", "3.7bpw", "4.0bpw", "4.3bpw"])
    parser.add_argument("--controls", type=int, default=2, help="files with noise at each size")
    parser.add_argument("--calibration", default="docs")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=16)
    args = parser.parse_args()
    set_quiet(False)
    try:
        found = measure(args)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    table = render(found)
    args.out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
