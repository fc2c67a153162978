"""Time and peak memory of lieq-edge on models of real shapes, beside llama.cpp's own tools, in one run.

    python -m benchmarks.scale --work WORK --out scale                # all rows: hours, and 40 GB in WORK
    python -m benchmarks.scale --work WORK --out scale --rows hardware,wide-quality,wide-geometry
    python -m benchmarks.scale --work WORK --out quick --quick        # tiny models, to see that everything runs
    python -m benchmarks.scale --work WORK --out scale --report       # write the Markdown again, measure nothing

Written are OUT.json, which keeps every sample, and OUT.md. Samples that OUT.json holds are not made again, unless the
command has changed or ``--again`` is given. Every command is a process of its own, whose time and memory are taken from
outside; peers and ours take turns. Models that are not in WORK are made first: random ones by ``benchmarks.shapes``,
the widened demo model by ``tools.widen``. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import command_line
from benchmarks.scale_report import render
from benchmarks.scale_rows import OPTIONAL, ROWS, Setup, groups
from benchmarks.turns import ROOT, Bench, Command, Failed, Sample, Samples, environment

SIZES = {"0.6b": "qwen3-0.6b", "1.5b": "qwen2.5-1.5b", "4b": "qwen3-4b"}
QUICK_SIZES = {"0.6b": "tiny-a", "1.5b": "tiny-b", "4b": "tiny-c"}


class ScaleBench(Bench):
    """Stores the profile that ``scale_profile`` writes in the report of its sample."""

    def __init__(self, setup: Setup, samples: Samples, settle: float = 2.0) -> None:
        super().__init__(setup.work, samples, settle)
        self._profile = setup.profile

    def measure(self, command: Command, commands: Sequence[Command]) -> None:
        self._profile.unlink(missing_ok=True)
        super().measure(command, commands)

    def completed(self, sample: Sample) -> Sample:
        if not self._profile.exists():
            return sample
        profile = json.loads(self._profile.read_text(encoding="utf-8"))
        return replace(sample, report={**sample.report, "profile": profile})


def prepare(setup: Setup, rows: Sequence[str]) -> None:
    """Make the models and files that the rows need, except those that exist."""

    def make(name: str, module: str, *arguments: str) -> str:
        path = setup.path(name)
        if not Path(path).exists():
            print(f"Making {name}", file=sys.stderr, flush=True)
            _call(setup.work, module, *arguments)
        return path

    work = "benchmarks.scale_work"
    sizes = set(setup.shapes) if "memory-geometry" in rows else set()
    sizes |= {"1.5b"} if {"memory-quality", "quantize", "geometry", "where-1.5b"} & set(rows) else set()
    for size in sorted(sizes):
        make(setup.shapes[size], "benchmarks.shapes", setup.shapes[size], setup.model(size))
    if "quantize" in rows:
        make("1.5b-bf16.gguf", work, "plain", setup.model("1.5b"), setup.path("1.5b-bf16.gguf"), "BF16")
    if any(row.startswith("wide") or row in ("cache", "where") for row in rows) or (setup.quick and "saliency" in rows):
        wide = setup.path("wide")
        if setup.quick:
            make("wide", "benchmarks.shapes", "tiny-b", wide)
        else:
            make("wide", "tools.widen", setup.demo, wide, "--hidden", str(setup.hidden), "--dither", "0")
        plain = make("wide-f32.gguf", work, "plain", wide, setup.path("wide-f32.gguf"), "F32")
        for name, count in ((Path(setup.token_file).name, setup.tokens), ("wide-few.npy", 512)):
            make(name, work, "tokens", wide, setup.path(name), "--tokens", str(count))
        if not setup.peer_size.exists():
            files = (plain, setup.path("wide-few.npy"), str(setup.peer))
            figures = json.loads(_call(setup.work, work, "peer-export", *files, setup.preset))
            setup.peer_size.write_text(f"{figures['file_bytes']}\n", encoding="utf-8")


def _call(work: Path, module: str, *arguments: str) -> str:
    """Run a module without measuring it; its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **environment(work)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        raise Failed(f"{module} {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def make_setup(args: argparse.Namespace) -> Setup:
    """Setup of the command line."""
    args.work.mkdir(parents=True, exist_ok=True)
    setup = Setup(
        work=args.work.resolve(),
        shapes=SIZES,
        demo=str(Path(args.model).resolve()) if Path(args.model).exists() else args.model,
        hidden=args.hidden,
        tokens=args.calibration_tokens,
        saliency_tokens=args.saliency_tokens,
        memory_tokens=args.memory_tokens,
        preset=args.preset,
        budget=args.budget,
        repeats=args.repeats,
        threads=args.threads,
    )
    return replace(setup, shapes=QUICK_SIZES, tokens=2048, saliency_tokens=1024, quick=True) if args.quick else setup


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, "--work", "--out", "--calibration-tokens", "--threads", "--repeats")
    default = ",".join(row for row in ROWS if row not in OPTIONAL)
    parser.add_argument("--rows", default=default, help=f"rows to measure, out of {', '.join(ROWS)}")
    parser.add_argument("--again", action="store_true", help="forget the samples of these rows first")
    parser.add_argument("--report", action="store_true", help="write OUT.md from OUT.json, measure nothing")
    parser.add_argument("--model", default="demo", help="model that is widened")
    parser.add_argument("--hidden", type=int, default=768, help="hidden size that it is widened to")
    parser.add_argument("--saliency-tokens", type=int, default=4096, help="tokens for the perplexity drops")
    parser.add_argument("--memory-tokens", type=int, help="calibration tokens in memory-quality; else the export's own")
    parser.add_argument("--preset", default="Q3_K_M", help="preset of llama.cpp; our file is never larger")
    parser.add_argument("--budget", default="3.0bpw", help="budget of the models of real shapes")
    parser.add_argument("--quick", action="store_true", help="tiny models and texts, in a WORK of their own")
    args = parser.parse_args(arguments)
    rows = [row for row in args.rows.split(",") if row]
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"there is no row {unknown[0]}; choose some of {', '.join(ROWS)}")
    # Ending the benchmark must end the command that is running, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    samples, setup = Samples(args.out.with_suffix(".json")), make_setup(args)
    failures = [] if args.report else measure_rows(setup, samples, rows, args.out, again=args.again)
    text = render(setup, samples)
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if failures else 0


def measure_rows(setup: Setup, samples: Samples, rows: Sequence[str], out: Path, *, again: bool) -> list[str]:
    """Measure rows and write OUT.md after each group of them; the failures, which do not stop the others."""
    failures = []

    def report(error: Failed) -> None:
        failures.append(str(error))
        print(f"Error: {error}", file=sys.stderr, flush=True)

    try:
        prepare(setup, rows)
    except Failed as error:
        report(error)
        return failures
    bench = ScaleBench(setup, samples)
    commands = groups(rows, setup)
    for command in (command for group in commands for command in group if again):
        samples.forget(command.name)
    for group in commands:
        try:
            bench.run(group)
        except Failed as error:
            report(error)
        out.with_suffix(".md").write_text(render(setup, samples), encoding="utf-8")
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
