"""Which file of a size is nearest to the original: lieq-edge, llama.cpp's presets, and the strongest peer.

    python -m tools.widen demo wide --hidden 768 --dither 0
    python -m benchmarks.quality wide --text TEXT --work work --out wide

All methods calibrate on the same tokens and are scored on another text against the model in full precision. Written
are OUT.md (tables), OUT.json and OUT.png (KL divergence over file size). Rows that OUT.json holds already are not made
again, so that a long run can be interrupted and goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from benchmarks.lagrange import weighted_errors, write_lagrange
from benchmarks.memory import forget_peak, peak_bytes
from benchmarks.peer import quantize_with_llama_cpp
from benchmarks.quality_report import Row, write_report
from benchmarks.reference import Reference, reference_of
from lieq_edge.allocate.loss import make_loss_plan
from lieq_edge.allocate.plan import Plan, PlanOptions, make_plan
from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.measure import describe
from lieq_edge.evidence.blocks.records import Diagnostics
from lieq_edge.evidence.importance.measure import measure_importance
from lieq_edge.evidence.loss.measure import candidate_types, losses_of, measure_loss
from lieq_edge.gguf.inspect import inspect_file
from lieq_edge.pipeline.planning import analyze_model, calibration_tokens
from lieq_edge.pipeline.validation import validation_text
from lieq_edge.pipeline.write import write_model
from lieq_edge.rounding.importance import Importance, encode_tensors
from lieq_edge.rounding.sequential import FeedbackInputs, encode_streamed
from lieq_edge.settings import ExportSettings
from lieq_edge.sources import open_source
from lieq_edge.sources.base import Source
from lieq_edge.store import Run
from lieq_edge.system.progress import log, set_quiet

PRESETS = "Q2_K_S,Q2_K,IQ2_XS,IQ2_S,IQ2_M,IQ3_XXS,Q3_K_S,Q3_K_M,Q3_K_L,IQ4_XS,Q4_K_S,Q4_K_M"
SIZES = "Q2_K_S,Q2_K,Q3_K_S,Q3_K_M,Q4_K_S,Q4_K_M"
CONTROL_SIZES = "Q2_K,Q3_K_M"
UNIFORM = {"Q2_K": 2, "Q3_K": 3}

T = TypeVar("T")


# By rounding, the attribute of ``Bench`` with the measurements that files by loss are made from.
_MEASURED = {"feedback": "inputs", "feedback-once": "inputs_once", "imatrix": "inputs"}


@dataclass
class Bench:
    """One model, its measurements (made when first asked for) and what they took in seconds."""

    source: Source
    reference_file: Path
    reference: Reference
    settings: ExportSettings
    out: Path
    work: Path
    rows: list[Row]
    original: Run

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = {}
        tokens, info = calibration_tokens(self.source, self.settings)
        if tokens is None or info is None:
            raise InputError("The benchmark needs a calibration text.")
        self.tokens = tokens
        log(f"Calibration: {info.name}, {info.tokens} tokens")

    def _timed(self, name: str, make: Callable[[], T]) -> T:
        start = time.monotonic()
        made = make()
        self.seconds[name] = time.monotonic() - start
        return made

    @cached_property
    def importance(self) -> Importance:
        return self._timed("importance", lambda: measure_importance(self.source, self.tokens, bfloat16=False))

    @cached_property
    def diagnostics(self) -> Diagnostics:
        return self._timed(
            "diagnostics", lambda: analyze_model(self.source, replace(self.settings, metric="composite"))
        )

    @cached_property
    def shapes(self) -> Diagnostics:
        """Names and shapes only: what needs no scores."""
        return describe(self.source)

    @cached_property
    def inputs(self) -> FeedbackInputs:
        return self._timed("inputs", lambda: self._measured("k"))

    @cached_property
    def inputs_all(self) -> FeedbackInputs:
        """With i-quants among the candidates."""
        return self._timed("inputs_all", lambda: self._measured("all"))

    @cached_property
    def inputs_once(self) -> FeedbackInputs:
        """With H of the original."""
        return self._timed("inputs_once", lambda: self._measured("k", once=True))

    def _measured(self, types: str, *, once: bool = False) -> FeedbackInputs:
        """The second to be measured finds the residual stream that the first put away, and takes that much less."""
        candidates = candidate_types(self.shapes.tensors, types)
        return measure_loss(self.source, self.tokens, candidates, once=once, waiting=self.original)

    @cached_property
    def errors(self) -> dict[str, dict[str, float]]:
        candidates = candidate_types(self.shapes.tensors, "k")
        return self._timed("errors", lambda: weighted_errors(self.source, self.importance, candidates))

    def row(self, method: str, size: str, make: Callable[[Path], Plan | None], shared: tuple[str, ...]) -> None:
        """Make and score a file unless that is done; ``shared`` are the measurements that count as its work."""
        if any(row.method == method and row.size == size for row in self.rows):
            return
        for name in shared:
            getattr(self, name)  # made now, so that the row's own time is without it
        path = self.work / "bench.gguf"
        path.unlink(missing_ok=True)
        forget_peak()
        start = time.monotonic()
        try:
            plan = make(path)
        except InputError as error:
            log(f"{method} at {size}: {error}")
            return
        seconds = time.monotonic() - start
        seconds += sum(self.seconds[name] for name in shared)
        peak = peak_bytes()
        score = self.reference.score(path)
        bpw = inspect_file(path).block_bpw
        predicted = plan.predicted_loss if plan else None
        row = Row(method, size, path.stat().st_size, bpw, seconds, peak, predicted, **asdict(score))
        self.rows.append(row)
        self.out.with_suffix(".json").write_text(json.dumps([asdict(r) for r in self.rows], indent=1) + "\n")
        log(f"{method} at {size}: {row.file_bytes / 1e6:.2f} MB, KLD {row.kld:.4f}, PPL {row.ppl:.2f}, {seconds:.0f} s")
        path.unlink()

    def bytes_of(self, size: str) -> str:
        """The budget of a preset's file."""
        row = next(row for row in self.rows if row.method == "preset" and row.size == size)
        return f"{row.file_bytes}B"

    def preset(self, name: str) -> None:
        """llama.cpp's own preset with the imatrix."""

        def make(path: Path) -> None:
            quantize_with_llama_cpp(self.reference_file, path, name, imatrix=self.importance)

        self.row("preset", name, make, ("importance",))

    def lagrange(self, size: str) -> None:
        """The peer at a preset's size."""
        budget = self.bytes_of(size)

        def make(path: Path) -> Plan:
            return write_lagrange(self.reference_file, path, self.shapes, self.errors, self.importance, budget)

        self.row("lagrange", size, make, ("importance", "errors"))

    def ours(self, metric: str, rounding: str, size: str, seed: int = 0, *, all_types: bool = False) -> None:
        """One metric with one rounding at a preset's size; with ``all_types`` the metric loss takes i-quants too."""
        detail = f" {seed}" if metric == "random" else ", all types" if all_types else ""
        name, measured = f"{metric}{detail} + {rounding}", "inputs_all" if all_types else _MEASURED[rounding]
        budget = self.bytes_of(size)
        options = PlanOptions(metric=metric, seed=seed, granularity="tensor" if metric == "loss" else "block")

        def make(path: Path) -> Plan:
            if metric != "loss":
                return self.write(path, make_plan(self.diagnostics, budget, options), rounding)
            inputs: FeedbackInputs = getattr(self, measured)
            plan = make_loss_plan(self.shapes, budget, losses_of(inputs.sensitivity, rounding), options)
            return self.write(path, plan, rounding, inputs)

        shared = (measured,) if "feedback" in rounding or metric == "loss" else ("importance",)
        self.row(name, size, make, shared if metric == "loss" else (*shared, "diagnostics"))

    def uniform(self, type_name: str, rounding: str) -> None:
        """All block matrices in one type, the embedding in 16 bits."""
        bits = UNIFORM[type_name]
        options = PlanOptions(metric="first", levels=(bits,), token_embedding_type="BF16", output_type="BF16")

        def make(path: Path) -> Plan:
            return self.write(path, make_plan(self.shapes, str(bits), options), rounding)

        shared = ("importance",) if rounding == "imatrix" else (_MEASURED[rounding],)
        self.row(f"uniform + {rounding}", type_name, make, shared)

    def write(self, path: Path, plan: Plan, rounding: str, inputs: FeedbackInputs | None = None) -> Plan:
        """Encode and write; ``inputs`` for feedback are those without i-quants unless given."""
        if "feedback" in rounding:
            encoded = encode_streamed(self.source, plan, {}, inputs or getattr(self, _MEASURED[rounding]))
        else:
            encoded = encode_tensors(self.source, plan, self.importance)
        write_model(path, self.source, plan, encoded, calibration=None, rounding=rounding)
        return plan


def run(bench: Bench, args: argparse.Namespace) -> None:
    """Make all rows that were asked for, those that targets speak of first."""
    sizes, controls = args.sizes.split(","), args.control_sizes.split(",")
    for name in dict.fromkeys([*sizes, *args.presets.split(","), *args.all_types_sizes.split(",")]):
        if name:
            bench.preset(name)
    for name in sizes if args.lagrange else ():
        bench.lagrange(name)
    for rounding in args.roundings.split(","):
        for name in sizes:
            bench.ours("loss", rounding, name)
    for name in args.all_types_sizes.split(","):
        if name:
            bench.ours("loss", "feedback", name, all_types=True)
    for name in UNIFORM if args.uniform else ():
        for rounding in ("imatrix", *args.roundings.split(",")):
            bench.uniform(name, rounding)
    for name in sizes:
        bench.ours("loss", "imatrix", name)
    for rounding in ("imatrix", "feedback"):
        for name in controls:
            for metric in args.metrics.split(","):
                if name and metric:
                    for seed in range(args.random_seeds if metric == "random" else 1):
                        bench.ours(metric, rounding, name, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="anything that lieq-edge opens")
    parser.add_argument("--text", type=Path, help="text to score on; default: built in")
    parser.add_argument("--out", type=Path, required=True, help="path without ending for the .md, .json and .png")
    parser.add_argument("--work", type=Path, required=True, help="folder for the reference and its logits (GB)")
    parser.add_argument("--title", help="of the plot; default: the model's name")
    parser.add_argument("--presets", default=PRESETS, help=f"default {PRESETS}")
    parser.add_argument("--sizes", default=SIZES, help=f"presets whose sizes we aim at; default {SIZES}")
    parser.add_argument(
        "--control-sizes", default=CONTROL_SIZES, help=f"for the other metrics; default {CONTROL_SIZES}"
    )
    parser.add_argument("--all-types-sizes", default="", help="where we take i-quants too, e.g. IQ2_XS,Q3_K_M")
    parser.add_argument("--roundings", default="feedback,feedback-once", help="of files by loss; default both")
    parser.add_argument("--metrics", default="geometry,composite,saliency,first,last,random")
    parser.add_argument("--random-seeds", type=int, default=5)
    parser.add_argument("--no-uniform", dest="uniform", action="store_false")
    parser.add_argument("--no-lagrange", dest="lagrange", action="store_false")
    parser.add_argument("--calibration", default="docs")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=64)
    args = parser.parse_args()
    set_quiet(False)
    try:
        text, _ = validation_text(args.text)
        source = open_source(args.model)
        reference_file, reference = reference_of(source, text, args.work, context=args.context, chunks=args.chunks)
        settings = ExportSettings(
            budget="2",
            calibration=args.calibration,
            calibration_tokens=args.calibration_tokens,
            metric="composite",
            cache=False,  # what is timed is made
        )
        stored = args.out.with_suffix(".json")
        rows = [Row(**row) for row in json.loads(stored.read_text())] if stored.exists() else []
        # What all files with feedback follow.
        with tempfile.TemporaryDirectory(dir=args.work) as folder, Run(Path(folder)) as original:
            run(Bench(source, reference_file, reference, settings, args.out, args.work, rows, original), args)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(write_report(rows, args.out, args.title or Path(args.model).name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
