"""Time, memory and bytes of the same commands in two checkouts of the project, before and after a change.

    python -m benchmarks.overhead --base CHECKOUT --model DIR

Every command is a whole process of ``python -m lieq_edge``, so that the layout of either checkout does not matter:
``--help``, a geometry export, a quality export, a feedback-once export, its second budget from the cache, and ``plan``
from the cache. The checkouts take turns. Written are OUT.md (medians with their range, peak memory, ratios of the
medians, and whether the files have the same bytes) and OUT.json, from which an interrupted run is resumed. Needs Linux
or macOS.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.harness import command_line, exit_code, gigabytes, machine_line, table, write_markdown
from benchmarks.turns import ROOT, Bench, Command, Failed, Sample, Samples, code_hash, environment
from lieq_edge import InputError

SIDES = ("base", "new")
FEEDBACK = ("--metric", "loss", "--rounding", "feedback")
ONCE = ("--metric", "loss", "--rounding", "feedback-once")
GEOMETRY = ("--metric", "geometry", "--rounding", "imatrix")


@dataclass(frozen=True)
class Options:
    """Settings of all commands.

    Attributes:
        model: model to export.
        work: absolute path of the folder for files and caches.
        budgets: the first and the second budget.
        tokens: calibration tokens.
        threads: threads of every command; None takes all cores.
        validate: whether exports validate their files.
        repeats: runs of each command.
    """

    model: str
    work: Path
    budgets: tuple[str, str] = ("3.0bpw", "3.6bpw")
    tokens: int = 16384
    threads: int | None = None
    validate: bool = False
    repeats: int = 3

    def export(self, *flags: str, budget: int = 0) -> tuple[str, ...]:
        """Arguments of an export at the first or second budget, without its output."""
        validation = () if self.validate else ("--no-validate",)
        return ("export", self.model, *flags, *self._measured(budget), "--force", *validation)

    def plan(self, *flags: str) -> tuple[str, ...]:
        """Arguments of a plan at the second budget, without its output."""
        return ("plan", self.model, *flags, *self._measured(1))

    def _measured(self, budget: int) -> tuple[str, ...]:
        threads = () if self.threads is None else ("--threads", str(self.threads))
        calibration = ("--calibration", "docs", "--calibration-tokens", str(self.tokens))
        return ("--budget", self.budgets[budget], *calibration, *threads)


def commands(options: Options, checkouts: dict[str, Path]) -> list[list[Command]]:
    """Groups of commands that alternate between the checkouts; commands that share a cache follow each other."""

    def command(what: str, side: str, arguments: tuple[str, ...], out: str | None, after: str | None) -> Command:
        output = None if out is None else options.work / out
        path = () if output is None else ("--out", str(output))
        return Command(
            f"{what}/{side}",
            ("-m", "lieq_edge", *arguments, *path),
            options.repeats,
            None if after is None else f"{after}/{side}",
            output,
            checkouts[side],
        )

    file, plan = "out.gguf", "plan.json"
    chains: list[list[tuple[str, tuple[str, ...], str | None, str | None]]] = [
        [("help", ("--help",), None, None)],
        [("geometry export", options.export(*GEOMETRY), file, None)],
        [("quality export", options.export(*FEEDBACK), file, None)],
        [
            ("feedback-once export", options.export(*ONCE), file, None),
            ("its second budget", options.export(*ONCE, budget=1), file, "feedback-once export"),
            ("plan from the cache", options.plan(*ONCE), plan, "its second budget"),
        ],
    ]
    return [
        [command(what, side, arguments, out, after) for side in checkouts for what, arguments, out, after in chain]
        for chain in chains
    ]


def check_checkout(folder: Path, work: Path) -> None:
    """Refuse a folder whose ``lieq_edge`` would not be the one that runs.

    Raises:
        InputError: the folder has no package, or Python finds another one first.
    """
    done = subprocess.run(
        [sys.executable, "-c", "import lieq_edge; print(lieq_edge.__file__)"],
        env={**os.environ, **environment(work, folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0 or folder not in Path(done.stdout.strip()).parents:
        raise InputError(f"{folder} is not a checkout whose lieq_edge Python imports; give the folder above lieq_edge.")


def forget_other_sources(samples: Samples, groups: Iterable[Sequence[Command]]) -> None:
    """Drop samples of sources that have changed since, because a ratio must be of one version."""
    for command in (command for group in groups for command in group):
        code = code_hash(command.checkout / "lieq_edge")
        if any(sample.code != code for sample in samples.of(command.name)):
            samples.forget(command.name)


def render(samples: Samples) -> str:
    """The tables and the machine."""
    names = list(dict.fromkeys(name.rpartition("/")[0] for name in samples.names()))
    sides = {name: [samples.of(f"{name}/{side}") for side in SIDES] for name in names}
    rows = [_row(name, base, new) for name, (base, new) in sides.items() if base and new]
    head = ("command", "base, s", "new, s", "ratio", "base, peak GB", "new, peak GB", "ratio", "bytes", "runs")
    codes = {side: sorted({s.code for name in names for s in samples.of(f"{name}/{side}")}) for side in SIDES}
    sources = "; ".join(f"{side}: {', '.join(codes[side])}" for side in SIDES)
    text = f"{machine_line(samples.machine)} Sources {sources}."
    return f"{text}\n\nSeconds are medians (least to most), peaks are medians.\n\n{table(head, rows)}\n"


def _row(name: str, base: Sequence[Sample], new: Sequence[Sample]) -> tuple[str, ...]:
    seconds = [[sample.seconds for sample in runs] for runs in (base, new)]
    peaks = [median(sample.peak_rss for sample in runs) for runs in (base, new)]
    return (
        name,
        *(f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})" for values in seconds),
        f"{median(seconds[1]) / median(seconds[0]):.3f}",
        *(gigabytes(peak) for peak in peaks),
        f"{peaks[1] / peaks[0]:.3f}",
        compared_bytes(base, new),
        " + ".join(str(len(values)) for values in seconds),
    )


def compared_bytes(base: Sequence[Sample], new: Sequence[Sample]) -> str:
    """Whether all runs of both sides wrote the same file; empty where there is no file."""
    written = [{sample.sha256 for sample in runs} for runs in (base, new)]
    if written == [{None}, {None}]:
        return ""
    if any(len(hashes) > 1 for hashes in written):
        return "differ from run to run"
    return "same" if written[0] == written[1] else "differ"


def bench(args: argparse.Namespace, work: Path) -> int:
    """Measure all commands in the folder ``work`` and write the report."""
    checkouts = {"base": args.base.resolve(), "new": args.new.resolve()}
    for folder in checkouts.values():
        check_checkout(folder, work)
    # Commands run in their checkout, so that a relative path would be another one there.
    model = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    first, second = args.budgets
    options = Options(model, work, (first, second), args.calibration_tokens, args.threads, args.validate, args.repeats)
    samples = Samples(args.out.with_suffix(".json"))
    groups = commands(options, checkouts)
    forget_other_sources(samples, groups)
    for group in groups:
        try:
            Bench(work, samples, args.settle).run(group)
        except Failed as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
    write_markdown(args.out, render(samples))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, "--calibration-tokens", "--threads", "--repeats")
    parser.add_argument("--base", type=Path, required=True, help="checkout before the change")
    parser.add_argument("--new", type=Path, default=ROOT, help="checkout after the change")
    parser.add_argument("--model", required=True, help="Hugging Face directory, .gguf file, or demo")
    parser.add_argument("--out", type=Path, default=Path("overhead"), help="path without ending of the files to write")
    parser.add_argument("--work", type=Path, help="folder for files and caches; a temporary one when left out")
    parser.add_argument("--budgets", nargs=2, default=["3.0bpw", "3.6bpw"], help="the first and the second budget")
    parser.add_argument("--validate", action="store_true", help="let exports validate their files, too")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds to watch the machine before each command")
    args = parser.parse_args(arguments)

    def compare() -> int:
        if args.work is not None:
            args.work.mkdir(parents=True, exist_ok=True)
            return bench(args, args.work.resolve())
        with tempfile.TemporaryDirectory(prefix="lieq-overhead.") as folder:
            return bench(args, Path(folder).resolve())

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
