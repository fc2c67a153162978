"""The files of a size nearest to the original: those of lieq-edge, llama.cpp's presets, and the strongest peer.

    python -m tools.widen demo wide --hidden 768 --dither 0
    python -m benchmarks.quality wide --text TEXT --work work --out wide

All methods calibrate on the same tokens and are scored on another text against the model in full precision. Written
are OUT.md (tables), OUT.json and OUT.png (KL divergence over file size). Rows that OUT.json holds already are not made
again, so that an interrupted run can be resumed. Seconds and peak memory are those of a part of this process; only
Linux can measure such a peak.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from benchmarks.harness import Records, command_line, exit_code, timed
from benchmarks.internals import (
    Importance,
    LossEvidence,
    Run,
    Source,
    Windows,
    analyze,
    calibration_windows,
    candidate_types,
    describe,
    encode_tensors,
    log,
    losses_with,
    make_loss_plan,
    measure_feedback,
    measure_importance,
    round_with_feedback,
    validation_text,
    write_model,
)
from benchmarks.lagrange import weighted_errors, write_lagrange
from benchmarks.peer import quantize_with_llama_cpp
from benchmarks.process_tree import forget_peak, own_peak
from benchmarks.quality_report import Row, write_report
from benchmarks.reference import Reference, reference_of
from lieq_edge import Diagnostics, InputError, Plan, PlanOptions, inspect_file, make_plan, open_source

PRESETS = "Q2_K_S,Q2_K,IQ2_XS,IQ2_S,IQ2_M,IQ3_XXS,Q3_K_S,Q3_K_M,Q3_K_L,IQ4_XS,Q4_K_S,Q4_K_M"
SIZES = "Q2_K_S,Q2_K,Q3_K_S,Q3_K_M,Q4_K_S,Q4_K_M"
CONTROL_SIZES = "Q2_K,Q3_K_M"
UNIFORM = {"Q2_K": 2, "Q3_K": 3}

Result = TypeVar("Result")

COMMON = ("model", "--text", "--out", "--work", "--calibration", "--calibration-tokens", "--context", "--chunks")
"""Arguments that ``opened_bench`` reads."""

# By rounding, the attribute of ``Bench`` with the evidence for files whose types follow the loss.
_EVIDENCE = {"feedback": "evidence", "feedback-once": "evidence_once", "imatrix": "evidence", "nearest": "evidence"}

PARTS = {"energy": (0.0, 0.0, 1.0)}
"""Metrics that are parts of the composite score, by their weights in it. Compactness by itself is geometry."""


@dataclass
class Bench:
    """One model, its evidence (measured when first used) and the seconds that each piece took.

    Attributes:
        source: the model.
        reference_file: GGUF file of the model in full precision.
        reference: its logits on the held-out text.
        windows: windows of the calibration text.
        work: folder for the files.
        rows: rows so far.
        original: run that stores the original's residual stream.
        seconds: seconds of each measurement, by attribute.
    """

    source: Source
    reference_file: Path
    reference: Reference
    windows: Windows
    work: Path
    rows: Records[Row]
    original: Run
    seconds: dict[str, float] = field(default_factory=dict)

    def _timed(self, name: str, measure: Callable[[], Result]) -> Result:
        with timed(self.seconds, name):
            return measure()

    @cached_property
    def importance(self) -> Importance:
        return self._timed("importance", lambda: measure_importance(self.source, self.windows, bfloat16=False))

    @cached_property
    def diagnostics(self) -> Diagnostics:
        return self._timed("diagnostics", lambda: analyze(self.source, metrics={"geometry", "saliency"}))

    @cached_property
    def shapes(self) -> Diagnostics:
        """Names and shapes only, for plans that need no scores."""
        return describe(self.source)

    @cached_property
    def evidence(self) -> LossEvidence:
        return self._timed("evidence", lambda: self._measured("k"))

    @cached_property
    def evidence_all(self) -> LossEvidence:
        """Evidence with i-quants among the candidates."""
        return self._timed("evidence_all", lambda: self._measured("all"))

    @cached_property
    def evidence_once(self) -> LossEvidence:
        """Evidence with H of the original."""
        return self._timed("evidence_once", lambda: self._measured("k", once=True))

    def _measured(self, types: str, *, once: bool = False) -> LossEvidence:
        """The second to be measured finds the residual stream that the first stored, and takes that much less."""
        candidates = candidate_types(self.shapes.tensors, types)
        return measure_feedback(self.source, self.windows, candidates, self.original, once=once)

    @cached_property
    def errors(self) -> dict[str, dict[str, float]]:
        candidates = candidate_types(self.shapes.tensors, "k")
        return self._timed("errors", lambda: weighted_errors(self.source, self.importance, candidates))

    def find(self, method: str, size: str) -> Row | None:
        """The row of a method and a size, if there is one."""
        return next((row for row in self.rows if row.method == method and row.size == size), None)

    def row(
        self,
        method: str,
        size: str,
        make: Callable[[Path], Plan | None],
        evidence: tuple[str, ...],
        size_of: Callable[[Path], tuple[int, float | None]] | None = None,
    ) -> None:
        """Make and score a file unless its row exists.

        Args:
            method, size: values of the row.
            make: function that writes the file, and returns the plan where there is one.
            evidence: measurements that count as its work.
            size_of: bytes and bits a block weight of a file that stands for one in another format; None takes the
                file's own.
        """
        if self.find(method, size) is not None:
            return
        for name in evidence:
            getattr(self, name)  # measured now, so that the row's time does not include it
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
        seconds += sum(self.seconds[name] for name in evidence)
        peak = own_peak()
        file_bytes, block_bpw = size_of(path) if size_of else (path.stat().st_size, inspect_file(path).block_bpw)
        row = Row(
            method=method,
            size=size,
            file_bytes=file_bytes,
            block_bpw=block_bpw,
            seconds=seconds,
            peak_rss_bytes=peak,
            predicted=plan.predicted_loss if plan else None,
            **asdict(self.reference.score(path)),
        )
        self.rows.add(row)
        log(f"{method} at {size}: {row.file_bytes / 1e6:.2f} MB, KLD {row.kld:.4f}, PPL {row.ppl:.2f}, {seconds:.0f} s")
        path.unlink()

    def bytes_of(self, size: str) -> str:
        """The budget of the file that a size is named after."""
        row = next(row for row in self.rows if row.method in ("preset", "ptqtp") and row.size == size)
        return f"{row.file_bytes}B"

    def preset(self, name: str) -> None:
        """llama.cpp's file at a preset, with importance."""

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
        name, measured = f"{metric}{detail} + {rounding}", "evidence_all" if all_types else _EVIDENCE[rounding]
        budget = self.bytes_of(size)
        options = PlanOptions(metric=metric, seed=seed, granularity="tensor" if metric == "loss" else "block")
        if metric in PARTS:
            options = replace(options, metric="composite", weights=PARTS[metric])

        def make(path: Path) -> Plan:
            if metric != "loss":
                return self.write(path, make_plan(self.diagnostics, budget, options), rounding)
            evidence: LossEvidence = getattr(self, measured)
            plan = make_loss_plan(self.shapes, budget, losses_with(evidence, rounding), options)
            return self.write(path, plan, rounding, evidence)

        if metric == "loss":
            self.row(name, size, make, (measured,))
        else:
            rounds_by = () if rounding == "nearest" else (measured,) if "feedback" in rounding else ("importance",)
            self.row(name, size, make, (*rounds_by, "diagnostics"))

    def uniform(self, type_name: str, rounding: str) -> None:
        """All block matrices in one type, the embedding in 16 bits."""
        bits = UNIFORM[type_name]
        options = PlanOptions(metric="first", levels=(bits,), token_embedding_type="BF16", output_type="BF16")

        def make(path: Path) -> Plan:
            return self.write(path, make_plan(self.shapes, str(bits), options), rounding)

        names = ("importance",) if rounding == "imatrix" else (_EVIDENCE[rounding],)
        self.row(f"uniform + {rounding}", type_name, make, names)

    def write(self, path: Path, plan: Plan, rounding: str, evidence: LossEvidence | None = None) -> Plan:
        """Encode and write; feedback takes the evidence without i-quants unless there is another."""
        if "feedback" in rounding:
            encoded = round_with_feedback(self.source, plan, evidence or getattr(self, _EVIDENCE[rounding]))
        else:
            encoded = encode_tensors(self.source, plan, {} if rounding == "nearest" else self.importance)
        write_model(path, self.source, plan, encoded, rounding=rounding)
        return plan


@contextmanager
def opened_bench(args: argparse.Namespace) -> Iterator[Bench]:
    """The model, its reference and the calibration text of the ``COMMON`` arguments, with the rows of OUT.json."""
    text, _ = validation_text(args.text)
    source = open_source(args.model)
    windows, info = calibration_windows(source, args.calibration, tokens=args.calibration_tokens)
    log(f"Calibration: {info.name}, {info.tokens} tokens")
    reference_file, reference = reference_of(source, text, args.work, context=args.context, chunks=args.chunks)
    rows = Records(args.out.with_suffix(".json"), Row)
    with tempfile.TemporaryDirectory(dir=args.work) as folder, Run(Path(folder)) as original:
        yield Bench(source, reference_file, reference, windows, args.work, rows, original)


def run(bench: Bench, args: argparse.Namespace) -> None:
    """Make all rows that the options name, those with a target first."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, *COMMON, chunks=64)
    parser.add_argument("--title", help="title of the plot; the model's name when left out")
    parser.add_argument("--presets", default=PRESETS, help="presets of llama.cpp to make")
    parser.add_argument("--sizes", default=SIZES, help="presets whose sizes ours must not exceed")
    parser.add_argument("--control-sizes", default=CONTROL_SIZES, help="the same for the other metrics")
    parser.add_argument("--all-types-sizes", default="", help="sizes at which ours take i-quants too: IQ2_XS,Q3_K_M")
    parser.add_argument("--roundings", default="feedback,feedback-once", help="roundings of files by loss")
    metrics = "geometry,composite,saliency,first,last,random"
    parser.add_argument("--metrics", default=metrics, help="metrics at the control sizes")
    parser.add_argument("--random-seeds", type=int, default=5, help="files of the metric random")
    parser.add_argument("--no-uniform", dest="uniform", action="store_false", help="leave out files of one type")
    parser.add_argument("--no-lagrange", dest="lagrange", action="store_false", help="leave out the strongest peer")
    args = parser.parse_args(arguments)

    def compare() -> None:
        with opened_bench(args) as bench:
            run(bench, args)
            write_report([*bench.rows], args.out, args.title or Path(args.model).name)

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
