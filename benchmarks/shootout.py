"""Every metric, every rounding and the peers on one model, at equal bytes, with errors and ranks.

    python -m tools.widen demo wide --hidden 768 --dither 0
    python -m benchmarks.shootout wide --text TEXT --work work --out shootout

Sizes are those of llama.cpp's presets. All files are calibrated on the same tokens and scored on the same windows of
another text. Each metric is tried with one rounding (--rounding), and each rounding with one metric (--metric); --full
makes every combination. Beside them stand llama.cpp's presets with the importance of the same text, types chosen by
weighted error (benchmarks.lagrange), and PTQTP (benchmarks.ptqtp). Written are OUT.md, OUT.json and OUT.png. An
interrupted run is resumed from OUT.json, and refuses to mix settings: those are in the folder WORK.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import ptqtp
from benchmarks.harness import command_line, describe_machine, exit_code, read_json, write_json
from benchmarks.internals import METRIC_NAMES, ROUNDERS
from benchmarks.quality import COMMON, PARTS, Bench, opened_bench
from benchmarks.shootout_report import write_report
from lieq_edge import InputError

SIZES = "Q2_K,Q3_K_M,Q4_K_M"


def combinations(args: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Metric, rounding and seed of every file of ours of a size; feedback takes longest and comes last."""
    metrics, roundings = args.metrics.split(","), args.roundings.split(",")
    pairs = [(args.metric, rounding) for rounding in roundings]
    pairs += [(metric, args.rounding) for metric in metrics]
    if args.full:
        pairs += [(metric, rounding) for rounding in roundings for metric in metrics]
    for metric, rounding in sorted(dict.fromkeys(pairs), key=lambda pair: "feedback" in pair[1]):
        for seed in range(args.random_seeds if metric == "random" else 1):
            yield metric, rounding, seed


def run(bench: Bench, args: argparse.Namespace) -> None:
    """Make what is missing."""
    sizes = args.sizes.split(",")
    for size in sizes:
        bench.preset(size)
        bench.lagrange(size)
    for metric, rounding, seed in combinations(args):
        for size in sizes:
            bench.ours(metric, rounding, size, seed)
    if args.ptqtp:
        ptqtp.measure(bench)


def command_of(args: argparse.Namespace) -> str:
    """The command that gives the same files."""
    words = ["python -m benchmarks.shootout", Path(args.model).name, "--text TEXT --work work --out shootout"]
    words += [f"--{name} {getattr(args, name.replace('-', '_'))}" for name in _SETTINGS]
    return " ".join([*words, *(("--full",) if args.full else ()), *(() if args.ptqtp else ("--no-ptqtp",))])


_SETTINGS = ("chunks", "context", "calibration", "calibration-tokens", "sizes", "metric", "rounding", "random-seeds")
_MIXED = ("model", "text", "calibration", "calibration_tokens", "context", "chunks")


def started(args: argparse.Namespace) -> dict[str, Any]:
    """Date, machine and settings of the first run that wrote to OUT.json.

    Raises:
        InputError: its settings were others, so that its figures are not comparable.
    """
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / f"{args.out.stem}-run.json"
    settings = {name: str(getattr(args, name)) for name in _MIXED}
    found: dict[str, Any] = read_json(path, {}) if args.out.with_suffix(".json").exists() else {}
    if not found:
        found = {"date": date.today().isoformat(), "machine": describe_machine(), "settings": settings}
        write_json(path, found)
    others = [name for name in _MIXED if found["settings"][name] != settings[name]]
    if others:
        raise InputError(
            f"{args.out.with_suffix('.json')} was begun with another {others[0].replace('_', ' ')} "
            f"({found['settings'][others[0]]}); choose another --out and --work, or the same settings."
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, *COMMON, calibration="builtin", chunks=32)
    parser.add_argument("--sizes", default=SIZES, help="presets of llama.cpp, whose bytes all files may take")
    metrics = ",".join((*METRIC_NAMES, *PARTS))
    parser.add_argument("--metrics", default=metrics, help="metrics to try")
    parser.add_argument("--roundings", default=",".join(ROUNDERS), help="roundings to try")
    parser.add_argument("--metric", default="loss", help="metric with which each rounding is tried")
    parser.add_argument("--rounding", default="imatrix", help="rounding with which each metric is tried")
    parser.add_argument("--random-seeds", type=int, default=3, help="files of the metric random, by size")
    parser.add_argument("--full", action="store_true", help="try every metric with every rounding")
    parser.add_argument("--no-ptqtp", dest="ptqtp", action="store_false", help="leave out PTQTP")
    args = parser.parse_args(arguments)

    def compare() -> None:
        begun = started(args)
        with opened_bench(args) as bench:
            run(bench, args)
            write_report([*bench.rows], args, begun, command_of(args))

    return exit_code(compare)


if __name__ == "__main__":
    sys.exit(main())
