"""Exports at several budgets beside llama.cpp's presets: one table of sizes and scores.

    python -m benchmarks.export demo --text TEXT --budget 2.1 --budget 3 --preset Q2_K --preset Q3_K_M --out results

Every file is scored on the same windows of the same text against the unquantised model. The presets are made
by ``llama_model_quantize`` with importance of the calibration text that the exports use. Each export is a process of
its own, so that its time (start-up included) and peak memory are its own. Written are OUT.md and OUT.json; files whose
rows OUT.json has are not made again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Records, command_line, exit_code, number, plus_minus, table, timed, write_markdown
from benchmarks.internals import (
    Importance,
    Source,
    calibration_windows,
    log,
    measure_importance,
    validate,
    validation_text,
    write_plain,
)
from benchmarks.peer import quantize_with_llama_cpp
from benchmarks.process_tree import Measured
from benchmarks.process_tree import measure as measure_command
from benchmarks.turns import ROOT, Failed, environment
from lieq_edge import Validation, inspect_file, open_source


@dataclass(frozen=True)
class Row:
    """One file: how it was made, its size, its scores, and the time and memory that making it took."""

    name: str
    file_bytes: int
    block_bpw: float | None
    ppl: float
    ppl_se: float
    kld: float | None
    kld_se: float | None
    top1: float | None
    seconds: float | None
    peak_rss_bytes: int | None


def run(folder: Path, *arguments: str) -> Measured:
    """Run lieq-edge in a process of its own.

    Raises:
        Failed: it ends with an error.
    """
    command = [sys.executable, "-m", "lieq_edge", *arguments]
    measured = measure_command(command, environment=environment(folder), folder=ROOT)
    if measured.returncode != 0:
        raise Failed(f"lieq-edge {' '.join(arguments)} ended with {measured.returncode}")
    return measured


class Bench:
    """Makes files one after the other, scores them and keeps their rows."""

    def __init__(self, source: Source, reference: Path, rows: Records[Row], args: argparse.Namespace) -> None:
        """Prepare for one model.

        Args:
            source: the model.
            reference: GGUF file of the model in full precision.
            rows: rows so far.
            args: options of the command line.
        """
        self.source = source
        self.reference = reference
        self.rows = rows
        self.args = args
        self.text, self.text_name = validation_text(args.text)
        self.seconds: dict[str, float] = {}
        self._importance: Importance | None = None

    def importance(self) -> Importance | None:
        """Importance on the calibration text, measured once; None without such a text."""
        if self._importance is None and self.args.calibration != "none":
            with timed(self.seconds, "importance"):
                tokens = self.args.calibration_tokens
                windows, _ = calibration_windows(self.source, self.args.calibration, tokens=tokens)
                self._importance = measure_importance(self.source, windows)
        return self._importance

    def add(self, name: str, path: Path, make: Callable[[], tuple[float | None, int | None]]) -> None:
        """Make a file and score it, unless its row exists; ``make`` returns its seconds and peak memory."""
        if any(row.name == name for row in self.rows):
            return
        seconds, peak = make()
        score = self._score(path)
        block_bpw = inspect_file(path).block_bpw
        row = Row(
            name,
            score.file_bytes,
            block_bpw,
            score.ppl,
            score.ppl_se,
            score.kld,
            score.kld_se,
            score.top1,
            seconds,
            peak,
        )
        self.rows.add(row)
        log(render([row]).splitlines()[-1])

    def _score(self, path: Path) -> Validation:
        return validate(
            path,
            self.text,
            text_name=self.text_name,
            context=self.args.context,
            chunks=self.args.chunks,
            reference=self.reference,
        )

    def export(self, metric: str, budget: str, folder: Path) -> None:
        """Our file at a budget."""
        args, path = self.args, folder / "ours.gguf"
        flags = ("--budget", budget, "--metric", metric, "--levels", args.levels, "--rounding", args.rounding)
        calibration = ["--calibration", args.calibration]
        if args.calibration != "none":
            calibration += ["--calibration-tokens", str(args.calibration_tokens)]
        # Without the cache, so that the time is that of all the work.
        rest = ("--out", str(path), "--force", "--no-validate", "--no-cache")

        def make() -> tuple[float, int]:
            measured = run(folder, "export", args.model, *flags, *calibration, *rest)
            return measured.seconds, measured.peak_rss

        self.add(f"lieq-edge {metric} {budget}", path, make)

    def preset(self, preset: str, folder: Path) -> None:
        """llama.cpp's file at a preset."""
        path = folder / "peer.gguf"

        def make() -> tuple[float, None]:
            importance = self.importance()
            with timed(self.seconds, "preset"):
                quantize_with_llama_cpp(self.reference, path, preset, imatrix=importance)
            return self.seconds["preset"] + self.seconds.get("importance", 0.0), None

        self.add(f"llama_model_quantize {preset}", path, make)


def render(rows: Sequence[Row]) -> str:
    """The table."""
    head = ("file", "MB", "bits a block weight", "PPL", "KL divergence", "same top token", "seconds", "peak MB")
    cells = [
        (
            row.name,
            f"{row.file_bytes / 1e6:.1f}",
            number(row.block_bpw, 2),
            plus_minus(row.ppl, row.ppl_se, 2),
            plus_minus(row.kld, row.kld_se, 4),
            f"{100 * row.top1:.1f} %" if row.top1 is not None else "",
            number(row.seconds, 0),
            number(None if row.peak_rss_bytes is None else row.peak_rss_bytes / 1e6, 0),
        )
        for row in rows
    ]
    return table(head, cells)


def bench(args: argparse.Namespace, rows: Records[Row], folder: Path) -> None:
    """Make and score all files."""
    source = open_source(args.model)
    reference = source.gguf_path or folder / "reference.gguf"
    if not reference.exists():
        write_plain(reference, source)
    files = Bench(source, reference, rows, args)
    files.add("unquantised", reference, lambda: (None, None))
    for metric in args.metric or ["geometry"]:
        for budget in args.budget:
            files.export(metric, budget, folder)
    for preset in args.preset:
        files.preset(preset, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    names = ("--calibration", "--calibration-tokens", "--context", "--chunks")
    parser = command_line(__doc__, "model", "--text", "--out", *names, chunks=32)
    parser.add_argument("--budget", action="append", default=[], help="budget of an export; can be repeated")
    parser.add_argument("--metric", action="append", default=[], help="metric of the exports; can be repeated")
    parser.add_argument("--preset", action="append", default=[], help="preset of llama.cpp; can be repeated")
    parser.add_argument("--levels", default="2,3,4", help="nominal bits that blocks may get")
    parser.add_argument("--rounding", default="feedback", help="rounding of the exports")
    parser.add_argument("--work", type=Path, help="folder for files while they are scored; a temporary one if left out")
    args = parser.parse_args(arguments)
    if Path(args.model).exists():
        args.model = str(Path(args.model).resolve())

    def compare() -> int:
        rows = Records(args.out.with_suffix(".json"), Row)
        with tempfile.TemporaryDirectory(prefix="lieq-bench.", dir=args.work) as folder:
            try:
                bench(args, rows, Path(folder).resolve())
            except Failed as error:
                print(f"Error: {error}", file=sys.stderr)
                return 1
        write_markdown(args.out, render([*rows]) + "\n")
        return 0

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
