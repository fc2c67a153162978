"""Export a model at several budgets, beside llama.cpp's presets, and print one table of sizes and scores.

    python -m benchmarks.export demo --text TEXT --budget 2.1 --budget 3 --preset Q2_K --preset Q3_K_M --out results.md

Every file is scored on the same windows of the same text against the unquantised model. The presets are made in this
process by ``llama_model_quantize`` with importance vectors of the calibration text that the exports use. Exports run
as processes of their own, so that their time (start-up included) and peak memory are theirs alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer import quantize_with_llama_cpp
from lieq_edge.errors import InputError
from lieq_edge.evidence.importance.measure import measure_importance
from lieq_edge.gguf.inspect import inspect_file
from lieq_edge.pipeline.planning import calibration_tokens
from lieq_edge.pipeline.validation import validation_text
from lieq_edge.settings import ExportSettings
from lieq_edge.sources import open_source
from lieq_edge.sources.plain import write_plain
from lieq_edge.system.progress import log, set_quiet
from lieq_edge.validate.perplexity import Validation, validate


@dataclass(frozen=True)
class Row:
    """One file: how it was made, its size, its scores, and what making it took."""

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


def run(*arguments: str) -> tuple[dict[str, Any], float]:
    """Run lieq-edge in a process of its own: its JSON document, and the seconds it took."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "lieq_edge", *arguments, "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout), time.monotonic() - start


def make_row(name: str, path: Path, score: Validation, seconds: float | None, peak: int | None) -> Row:
    """Join what is known of a file."""
    found = inspect_file(path)
    return Row(
        name=name,
        file_bytes=score.file_bytes,
        block_bpw=found.block_bpw,
        ppl=score.ppl,
        ppl_se=score.ppl_se,
        kld=score.kld,
        kld_se=score.kld_se,
        top1=score.top1,
        seconds=seconds,
        peak_rss_bytes=peak,
    )


def to_markdown(rows: list[Row]) -> str:
    """The table."""
    lines = [
        "| file | MB | bits a block weight | PPL | KL divergence | same top token | seconds | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row.name,
            f"{row.file_bytes / 1e6:.1f}",
            f"{row.block_bpw:.2f}" if row.block_bpw else "",
            f"{row.ppl:.2f} ± {row.ppl_se:.2f}",
            f"{row.kld:.4f} ± {row.kld_se:.4f}" if row.kld is not None else "",
            f"{100 * row.top1:.1f} %" if row.top1 is not None else "",
            f"{row.seconds:.0f}" if row.seconds else "",
            f"{row.peak_rss_bytes / 1e6:.0f}" if row.peak_rss_bytes else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bench(args: argparse.Namespace, folder: Path) -> list[Row]:
    """Make and score all files."""
    text, text_name = validation_text(args.text)
    source = open_source(args.model)
    rows: list[Row] = []

    with tempfile.TemporaryDirectory(prefix="lieq-reference.", dir=folder) as temporary:
        reference = source.gguf_path or Path(temporary) / "reference.gguf"
        if not reference.exists():
            write_plain(reference, source)

        def score(path: Path) -> Validation:
            return validate(
                path, text, text_name=text_name, context=args.context, chunks=args.chunks, reference=reference
            )

        whole = score(reference)
        rows.append(make_row("unquantised", reference, whole, None, None))
        _, seconds = run("analyze", args.model, "--metric", "geometry", "--no-cache")
        log(f"Geometry analysis as a command: {seconds:.1f} s")
        for metric in args.metric:
            for budget in args.budget:
                path = folder / "ours.gguf"
                flags = ["--budget", budget, "--metric", metric, "--levels", args.levels, "--out", str(path)]
                # Times are those of all the work.
                flags += ["--rounding", args.rounding, "--no-cache"]
                report, seconds = run(
                    "export", args.model, *flags, "--calibration", args.calibration, "--no-validate", "--force"
                )
                name = f"lieq-edge {metric} {budget}"
                rows.append(make_row(name, path, score(path), seconds, report["peak_rss_bytes"]))
                log(to_markdown(rows[-1:]).splitlines()[-1])
        start = time.monotonic()
        tokens, _ = calibration_tokens(
            source, ExportSettings(budget="2", calibration=args.calibration, rounding=args.rounding)
        )
        importance = measure_importance(source, tokens) if tokens is not None else None
        shared = time.monotonic() - start
        for preset in args.preset:
            path = folder / "peer.gguf"
            start = time.monotonic()
            quantize_with_llama_cpp(reference, path, preset, imatrix=importance)
            seconds = time.monotonic() - start + shared
            rows.append(make_row(f"llama_model_quantize {preset}", path, score(path), seconds, None))
            log(to_markdown(rows[-1:]).splitlines()[-1])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, help="text to score on; default: built in")
    parser.add_argument("--budget", action="append", default=[])
    parser.add_argument("--metric", action="append", default=[])
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--levels", default="2,3,4")
    parser.add_argument("--calibration", default="self")
    parser.add_argument("--rounding", default="feedback")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--out", type=Path, help="write the Markdown table here, and the numbers beside it as JSON")
    parser.add_argument("--work", type=Path, help="folder for the files while they are scored; default: temporary")
    args = parser.parse_args()
    set_quiet(False)
    args.metric = args.metric or ["geometry"]
    try:
        with tempfile.TemporaryDirectory(prefix="lieq-bench.", dir=args.work) as folder:
            rows = bench(args, Path(folder))
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    table = to_markdown(rows)
    print(table)
    if args.out is not None:
        args.out.write_text(table + "\n", encoding="utf-8")
        args.out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
