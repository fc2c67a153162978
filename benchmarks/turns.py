"""Commands that take turns, each a process of its own, and samples of their time and memory that are kept as JSON.

Needs Linux or macOS, as ``benchmarks.process_tree`` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import describe_machine, read_json, write_json
from benchmarks.process_tree import Measured, Phase, measure

ROOT = Path(__file__).resolve().parents[1]
"""This checkout."""

BUSY = 10.0
"""Percent of the processor above which figures are not to be trusted."""

# Entries of a report that no table shows.
_LEFT_OUT = ("layers", "blocks", "tensors", "fallbacks", "warnings", "probe")


class Failed(Exception):
    """A command ended with an error."""


@dataclass(frozen=True)
class Command:
    """A process to measure.

    Attributes:
        name: name of its samples.
        arguments: arguments of the Python interpreter.
        repeats: number of runs.
        after: name of the command that must have run right before, and whose cache folder it uses.
        output: file that it writes, removed again once it is measured.
        checkout: checkout of the project that it runs.
    """

    name: str
    arguments: tuple[str, ...]
    repeats: int = 1
    after: str | None = None
    output: Path | None = None
    checkout: Path = ROOT


@dataclass(frozen=True)
class Sample:
    """One run of a command.

    Attributes:
        command: the command without the names of folders.
        code: short hash of the package's sources.
        busy: percent of the processor's time that other programs took before it started.
        seconds: seconds of the whole process.
        peak_rss: peak resident memory of the process tree in bytes; see ``process_tree``.
        peak_anonymous: the same without pages of files; None where the system does not report it.
        phases: peaks between the ends of stages.
        report: JSON object that the command printed.
        sha256: hash of the file that it wrote.
    """

    command: str
    code: str
    busy: float
    seconds: float
    peak_rss: int
    peak_anonymous: int | None
    phases: tuple[Phase, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    sha256: str | None = None

    @property
    def work_seconds(self) -> float:
        """Seconds without the start of Python, where the command reports them."""
        return float(self.report.get("work_seconds", self.seconds))

    def before_validation(self) -> tuple[int, int | None] | None:
        """Both peaks until the file is written; None where no stage says so."""
        last = max((i for i, phase in enumerate(self.phases) if "write" in phase.title.lower()), default=None)
        if last is None:
            return None
        parts = self.phases[: last + 1]
        anonymous = [phase.anonymous for phase in parts if phase.anonymous is not None]
        return max(phase.rss for phase in parts), max(anonymous, default=None)


class Samples:
    """All samples by the name of their command, and the machine that they were made on."""

    def __init__(self, path: Path) -> None:
        """Read the samples that ``path`` holds already; it need not exist yet."""
        self._path = path
        document = read_json(path, {})
        self.machine: dict[str, Any] = document.get("machine") or describe_machine()
        self._samples: dict[str, list[Sample]] = {
            name: [_sample(entry) for entry in entries] for name, entries in document.get("samples", {}).items()
        }

    def of(self, name: str, command: str | None = None) -> list[Sample]:
        """Samples of a command; with ``command``, only those with the same arguments."""
        samples = self._samples.get(name, [])
        return [sample for sample in samples if command is None or sample.command == command]

    def add(self, name: str, sample: Sample) -> None:
        """Store a sample, and drop those of the same name whose arguments were others."""
        self._samples[name] = [*self.of(name, sample.command), sample]
        self.save()

    def forget(self, name: str, count: int = 0) -> None:
        """Keep only the first ``count`` samples of a command."""
        self._samples[name] = self._samples.get(name, [])[:count]

    def save(self) -> None:
        """Write the file."""
        samples = {name: [asdict(sample) for sample in entries] for name, entries in self._samples.items() if entries}
        write_json(self._path, {"machine": self.machine, "samples": samples})

    def names(self) -> list[str]:
        """Names of all commands that have samples."""
        return [name for name, entries in self._samples.items() if entries]


def _sample(entry: dict[str, Any]) -> Sample:
    return Sample(**{**entry, "phases": tuple(Phase(**phase) for phase in entry["phases"])})


class Bench:
    """Measures commands in turns and keeps their samples."""

    def __init__(self, work: Path, samples: Samples, settle: float = 2.0) -> None:
        """Prepare a work folder.

        Args:
            work: absolute path of the folder for caches and temporary files.
            samples: samples so far.
            settle: seconds to watch the machine for before each command.
        """
        self.work = work
        self.samples = samples
        self.settle = settle
        self.last: str | None = None

    def run(self, commands: Sequence[Command]) -> None:
        """Run each command once, then each a second time, until all have their repeats."""
        try:
            for turn in range(max((command.repeats for command in commands), default=0)):
                for command in commands:
                    if turn < command.repeats and len(self.samples.of(command.name, self.shown(command))) <= turn:
                        self._before(command, commands, turn)
                        self.measure(command, commands)
        finally:
            shutil.rmtree(self.work / "cache", ignore_errors=True)

    def _before(self, command: Command, commands: Sequence[Command], turn: int) -> None:
        """Run again the commands that ``command`` must follow, unless they have just run."""
        if command.after is None or self.last == command.after:
            return
        earlier = _named(command.after, commands)
        self._before(earlier, commands, turn)
        self.samples.forget(earlier.name, turn)
        self.measure(earlier, commands)

    def measure(self, command: Command, commands: Sequence[Command]) -> None:
        """Measure a command once.

        Args:
            command: command to run.
            commands: all commands of its group, among them those that it follows.
        """
        self.last = None
        if command.after is None:
            shutil.rmtree(self.work / "cache", ignore_errors=True)
        first = command
        while first.after is not None:
            first = _named(first.after, commands)
        variables = environment(self.work, command.checkout)
        variables["LIEQ_CACHE_DIR"] = str(self.work / "cache" / first.name.replace("/", "-"))
        busy = self._busy()
        print(f"{command.name}: {self.shown(command)}", file=sys.stderr, flush=True)
        try:
            measured = measure([sys.executable, *command.arguments], environment=variables, folder=command.checkout)
            if measured.returncode != 0:
                raise Failed(f"{command.name} ended with {measured.returncode}: {_last_line(measured)}")
            digest = file_hash(command.output) if command.output is not None and command.output.exists() else None
        finally:
            if command.output is not None:
                command.output.unlink(missing_ok=True)
        sample = Sample(
            self.shown(command),
            code_hash(command.checkout / "lieq_edge"),
            busy,
            measured.seconds,
            measured.peak_rss,
            measured.tree_anonymous,
            measured.phases,
            _report(measured.stdout),
            digest,
        )
        self.samples.add(command.name, self.completed(sample))
        self.last = command.name
        peak = f"{sample.peak_rss / 1e9:.2f} GB"
        print(f"{command.name}: {sample.seconds:.1f} s, {peak}", file=sys.stderr, flush=True)

    def completed(self, sample: Sample) -> Sample:
        """The sample as it is stored; subclasses add what a command left beside its output."""
        return sample

    def _busy(self) -> float:
        """Percent of the processor's time that other programs take while nothing is measured."""
        if not self.settle:
            return 0.0
        percent = psutil.cpu_percent(interval=self.settle)
        if percent > BUSY:
            # llama.cpp's threads spin while they wait for each other: a busy core slows the peers most of all.
            print(f"Note: other programs take {percent:.0f} % of the processor.", file=sys.stderr, flush=True)
        return float(percent)

    def shown(self, command: Command) -> str:
        """The command without the names of folders, which may differ from run to run."""
        return " ".join(("python", *command.arguments)).replace(str(self.work), "WORK")


def environment(work: Path, checkout: Path = ROOT) -> dict[str, str]:
    """Variables of a measured process: one checkout first, and temporary files on the measured disk.

    The process must also start in the checkout, because ``python -m`` puts the current folder before all others.
    """
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    paths = [str(checkout), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "XDG_CACHE_HOME": str(work / "cache"),
        "TMPDIR": str(work / "tmp"),
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
    }


def code_hash(package: Path) -> str:
    """Twelve hex digits over the sources of a package."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _report(printed: str) -> dict[str, Any]:
    """The JSON object that a command printed, without long lists; empty when it printed something else."""
    if not printed.lstrip().startswith("{"):
        return {}
    return {key: value for key, value in json.loads(printed).items() if key not in _LEFT_OUT}


def _named(name: str, commands: Sequence[Command]) -> Command:
    return next(command for command in commands if command.name == name)


def _last_line(measured: Measured) -> str:
    return next((line for line in reversed(measured.stderr.splitlines()) if line.strip()), "no message")
