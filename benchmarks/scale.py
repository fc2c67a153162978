"""Time and peak memory of lieq-edge on models of real shapes, beside llama.cpp's own tools, in one run.

    python -m benchmarks.scale --work WORK --out scale                # all rows: hours, and 40 GB in WORK
    python -m benchmarks.scale --work WORK --out scale --rows hardware,wide-quality,wide-geometry
    python -m benchmarks.scale --work WORK --out quick --quick        # tiny models: does everything run?
    python -m benchmarks.scale --out scale --report                   # write the Markdown again, measure nothing

Written are OUT.json, which keeps every sample, and OUT.md. Samples that OUT.json holds are not made again, unless the
command has become another one or ``--again`` is given. Every command is a process of its own, whose time and memory
are taken from outside; peers and ours take turns. Models that WORK has not are made first: random ones by
``benchmarks.shapes``, the demo model by ``tools.widen``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.process_tree import Measured, measure
from benchmarks.scale_report import render
from benchmarks.scale_rows import OPTIONAL, ROWS, TOOLS, Command, Setup, groups
from benchmarks.scale_samples import Samples, code_hash, make_sample

ROOT = TOOLS.parent
SIZES = {"0.6b": "qwen3-0.6b", "1.5b": "qwen2.5-1.5b", "4b": "qwen3-4b"}
QUICK_SIZES = {"0.6b": "tiny-a", "1.5b": "tiny-b", "4b": "tiny-c"}


BUSY = 10.0
"""Percent of the processor above which figures are not to be trusted."""


class Failed(Exception):
    """A command ended with an error."""


def environment(work: Path) -> dict[str, str]:
    """This checkout first; caches and temporary files on the measured disk, where they do not outlive a command."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": str(work / "cache"),
        "TMPDIR": str(work / "tmp"),
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
    }


def prepare(setup: Setup, rows: Sequence[str]) -> None:
    """Make what the rows need, unless it is there."""

    def make(name: str, *arguments: str) -> str:
        path = setup.path(name)
        if not Path(path).exists():
            print(f"Making {name}", file=sys.stderr, flush=True)
            _call(setup.work, *arguments)
        return path

    def work_on(*arguments: str) -> tuple[str, ...]:
        return (str(TOOLS / "scale_work.py"), *arguments)

    sizes = set(setup.shapes) if "memory-geometry" in rows else set()
    sizes |= {"1.5b"} if {"memory-quality", "quantize", "geometry", "where-1.5b"} & set(rows) else set()
    for size in sorted(sizes):
        make(setup.shapes[size], str(TOOLS / "shapes.py"), setup.shapes[size], setup.model(size))
    if "quantize" in rows:
        plain = setup.path("1.5b-bf16.gguf")
        make("1.5b-bf16.gguf", *work_on("plain", setup.model("1.5b"), plain, "BF16"))
    if any(row.startswith("wide") or row in ("cache", "where") for row in rows) or (setup.quick and "saliency" in rows):
        wide = setup.path("wide")
        if setup.quick:
            make("wide", str(TOOLS / "shapes.py"), "tiny-b", wide)
        else:
            flags = ("--hidden", str(setup.hidden), "--dither", "0")
            make("wide", str(TOOLS / "widen.py"), setup.demo, wide, *flags)
        plain = make("wide-f32.gguf", *work_on("plain", wide, setup.path("wide-f32.gguf"), "F32"))
        for name, count in ((Path(setup.token_file).name, setup.tokens), ("wide-few.npy", 512)):
            make(name, *work_on("tokens", wide, setup.path(name), "--tokens", str(count)))
        if not setup.peer_size.exists():
            files = (plain, setup.path("wide-few.npy"), setup.path("peer.gguf"))
            found = json.loads(_call(setup.work, *work_on("peer-export", *files, setup.preset)))
            setup.peer_size.write_text(f"{found['file_bytes']}\n", encoding="utf-8")


def _call(work: Path, *arguments: str) -> str:
    """Run something that is not measured; what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], env={**os.environ, **environment(work)}, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def with_cache(work: Path) -> frozenset[str]:
    """Subcommands that keep measurements in a folder of the user's choice."""
    names = ("export", "analyze")
    return frozenset(name for name in names if "--cache-dir" in _call(work, "-m", "lieq_edge", name, "--help"))


class Bench:
    """Measures commands and keeps their samples."""

    def __init__(self, setup: Setup, samples: Samples, settle: float = 2.0) -> None:
        """Measure with ``setup``; before each command the machine is watched for ``settle`` seconds."""
        self.settle = settle
        self.setup = setup
        self.samples = samples
        self.code = code_hash(ROOT / "lieq_edge")
        self.last: str | None = None

    def run(self, commands: Sequence[Command]) -> None:
        """Measure commands in turns, until each has its repeats."""
        try:
            for turn in range(max((command.repeats for command in commands), default=0)):
                for command in commands:
                    if turn < command.repeats and len(self.samples.of(command.name, self.shown(command))) <= turn:
                        self.before(command, commands, turn)
                        self.measure(command)
        finally:
            shutil.rmtree(self.setup.work / "cache", ignore_errors=True)

    def before(self, command: Command, commands: Sequence[Command], turn: int) -> None:
        """Run again what ``command`` must follow, unless that has just run."""
        if command.after is None or self.last == command.after:
            return
        self.samples.forget(command.after, turn)
        self.measure(next(other for other in commands if other.name == command.after))

    def cache_folder(self, name: str) -> Path:
        """Where a command's measurements go, until the next command that follows no other starts."""
        return self.setup.work / "cache" / name.replace("/", "-")

    def measure(self, command: Command) -> None:
        """Measure a command once."""
        setup = self.setup
        self.last = None
        profile = setup.work / "profile.json"
        profile.unlink(missing_ok=True)
        if command.after is None:
            shutil.rmtree(setup.work / "cache", ignore_errors=True)
        (setup.work / "tmp").mkdir(parents=True, exist_ok=True)
        arguments = list(command.arguments)
        if command.subcommand in setup.cache:
            folder = self.cache_folder(command.after or command.name)
            folder.mkdir(parents=True, exist_ok=True)
            arguments += ["--cache-dir", str(folder)]
        busy = self.busy()
        print(f"{command.name}: {self.shown(command)}", file=sys.stderr, flush=True)
        try:
            measured = measure([sys.executable, *arguments], environment=environment(setup.work))
        finally:
            for name in ("ours.gguf", "peer.gguf"):
                (setup.work / name).unlink(missing_ok=True)
        if measured.returncode != 0:
            raise Failed(f"{command.name} ended with {measured.returncode}: {_last_line(measured)}")
        sample = make_sample(self.shown(command), self.code, busy, measured)
        if profile.exists():
            sample.report["profile"] = json.loads(profile.read_text(encoding="utf-8"))
        self.samples.add(command.name, sample)
        self.last = command.name
        peak = f"{sample.peak_rss / 1e9:.2f} GB"
        print(f"{command.name}: {sample.seconds:.1f} s, {peak}", file=sys.stderr, flush=True)

    def busy(self) -> float:
        """Percent of the processor's time that others take, watched while nothing is measured."""
        if not self.settle:
            return 0.0
        percent = psutil.cpu_percent(interval=self.settle)
        if percent > BUSY:
            # llama.cpp's threads spin while they wait for each other: a busy core costs the peers most of all.
            print(f"Note: other programs take {percent:.0f} % of the processor.", file=sys.stderr, flush=True)
        return float(percent)

    def shown(self, command: Command) -> str:
        """The command without the names of folders, which may differ from run to run."""
        text = " ".join(("python", *command.arguments))
        return text.replace(str(self.setup.work), "WORK").replace(str(TOOLS), "tools")


def _last_line(measured: Measured) -> str:
    return next((line for line in reversed(measured.stderr.splitlines()) if line.strip()), "no message")


def make_setup(args: argparse.Namespace) -> Setup:
    """Settings of the command line."""
    if args.report:
        return Setup(args.work or Path(), QUICK_SIZES if args.quick else SIZES, quick=args.quick)
    args.work.mkdir(parents=True, exist_ok=True)
    work = args.work.resolve()
    sizes, tokens, saliency_tokens = SIZES, args.tokens, args.saliency_tokens
    if args.quick:
        sizes, tokens, saliency_tokens = QUICK_SIZES, 2048, 1024
    return Setup(
        work=work,
        shapes=sizes,
        demo=args.model,
        hidden=args.hidden,
        tokens=tokens,
        saliency_tokens=saliency_tokens,
        memory_tokens=args.memory_tokens,
        preset=args.preset,
        budget=args.budget,
        repeats=args.repeats,
        threads=args.threads,
        quick=args.quick,
        cache=with_cache(work),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for models and files; kept, so that they are made once")
    parser.add_argument("--out", type=Path, required=True, help="path without ending for the .md and .json")
    default = ",".join(row for row in ROWS if row not in OPTIONAL)
    parser.add_argument("--rows", default=default, help=f"some of {', '.join(ROWS)}; default all but {OPTIONAL[0]}")
    parser.add_argument("--again", action="store_true", help="forget what OUT.json holds of these rows")
    parser.add_argument("--report", action="store_true", help="write OUT.md from OUT.json, measure nothing")
    parser.add_argument("--repeats", type=int, default=3, help="of commands that have a peer; the largest run once")
    parser.add_argument("--model", default="demo", help="what is widened")
    parser.add_argument("--hidden", type=int, default=768, help="what it is widened to")
    parser.add_argument("--tokens", type=int, default=16384, help="of calibration, ours and the peer's")
    parser.add_argument("--saliency-tokens", type=int, default=4096)
    parser.add_argument("--memory-tokens", type=int, help="of calibration in memory-quality; default: the export's own")
    parser.add_argument("--preset", default="Q3_K_M", help="of llama.cpp; our file is never larger")
    parser.add_argument("--budget", default="3.0bpw", help="of the models of real shapes")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quick", action="store_true", help="tiny models and texts, in a WORK of their own")
    args = parser.parse_args()
    rows = [row for row in args.rows.split(",") if row]
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"there is no row {unknown[0]}; choose some of {', '.join(ROWS)}")
    if args.work is None and not args.report:
        parser.error("--work is missing")
    # A command that is running must not be left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    samples = Samples(args.out.with_suffix(".json"))
    failures = []
    setup = make_setup(args)
    if not args.report:
        try:
            prepare(setup, rows)
        except Failed as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        bench = Bench(setup, samples)
        made = groups(rows, setup)
        for command in (command for group in made for command in group if args.again):
            samples.forget(command.name)
        for group in made:
            try:
                bench.run(group)
            except Failed as error:
                failures.append(str(error))
                print(f"Error: {error}", file=sys.stderr, flush=True)
            args.out.with_suffix(".md").write_text(render(setup, samples), encoding="utf-8")
    text = render(setup, samples)
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
