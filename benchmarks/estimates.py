"""Estimated beside measured time of exports, step by step.

    python -m benchmarks.estimates demo wide qwen.gguf --work work --out estimates

Each model is exported from nothing, and then at another budget. The estimates are those that ``export`` reports before
it begins. Written are OUT.md and OUT.json; exports whose rows OUT.json has are not made again.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Records, command_line, exit_code, table, write_markdown
from benchmarks.internals import latest_schedule
from lieq_edge import Settings, export_model


@dataclass(frozen=True)
class Row:
    """One step of one export, or all of it (``all``)."""

    model: str
    export: str
    step: str
    estimated: float
    measured: float


def bench(args: argparse.Namespace, rows: Records[Row]) -> None:
    """Export what is missing."""
    args.work.mkdir(parents=True, exist_ok=True)
    for model in args.models:
        name = Path(model).name
        exports = {"first": ("Q3_K_M", args.effort), "second budget": ("Q4_K_M", args.effort)}
        if all(any((row.model, row.export) == (name, export) for row in rows) for export in exports):
            continue
        shutil.rmtree(args.work / "cache", ignore_errors=True)
        for export, (budget, effort) in exports.items():
            settings = Settings(budget=budget, effort=effort, cache_dir=args.work / "cache", threads=args.threads)
            start = time.monotonic()
            report = export_model(model, args.work / "estimated.gguf", settings, force=True)
            whole = time.monotonic() - start
            schedule = latest_schedule()
            assert schedule is not None
            for step in schedule.steps:
                rows.add(Row(name, export, step.name, step.seconds, report.seconds.get(step.name, 0.0)))
            rows.add(Row(name, export, "all", schedule.seconds, whole))


def render(rows: Sequence[Row]) -> str:
    """A line for each step."""
    lines = [
        (row.model, row.export, row.step, f"{row.estimated:.1f}", f"{row.measured:.1f}", f"{_ratio(row):.2f}")
        for row in rows
    ]
    return table(("model", "export", "step", "estimated, s", "measured, s", "estimated over measured"), lines)


def _ratio(row: Row) -> float:
    return row.estimated / max(row.measured, 1e-9)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, "--out", "--work", "--threads")
    parser.add_argument("models", nargs="+", help="Hugging Face directories, .gguf files, or demo")
    parser.add_argument("--effort", default="normal", choices=["quick", "normal", "best"], help="effort of the exports")
    args = parser.parse_args(arguments)

    def compare() -> None:
        rows = Records(args.out.with_suffix(".json"), Row)
        bench(args, rows)
        write_markdown(args.out, render([*rows]) + "\n")

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
