"""What ``bench_scale`` has measured, kept in a JSON file so that a long run can be interrupted and goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.process_tree import Measured, Phase


@dataclass(frozen=True)
class Sample:
    """One run of a command.

    Attributes:
        command: as it was called, but for the names of folders.
        code: short hash of the package's sources.
        busy: percent of the processor's time that other programs took before it started.
        seconds: of the whole process.
        peak_rss, peak_anonymous: of the process tree, bytes; see ``process_tree``.
        phases: peaks between the ends of stages.
        report: what the command printed.
    """

    command: str
    code: str
    busy: float
    seconds: float
    peak_rss: int
    peak_anonymous: int | None
    phases: tuple[Phase, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def work_seconds(self) -> float:
        """Seconds without the start of Python, where the command tells them."""
        return float(self.report.get("work_seconds", self.seconds))

    def before_validation(self) -> tuple[int, int | None] | None:
        """Peaks until the file is written; None where no stage says so."""
        last = max((i for i, phase in enumerate(self.phases) if "write" in phase.title.lower()), default=None)
        if last is None:
            return None
        parts = self.phases[: last + 1]
        anonymous = [phase.anonymous for phase in parts if phase.anonymous is not None]
        return max(phase.rss for phase in parts), max(anonymous, default=None)


def make_sample(command: str, code: str, busy: float, measured: Measured) -> Sample:
    """The record of a run; of a report only what tables show is kept."""
    report = json.loads(measured.stdout) if measured.stdout.strip() else {}
    kept = {key: value for key, value in report.items() if key not in _LEFT_OUT}
    return Sample(
        command, code, busy, measured.seconds, measured.peak_rss, measured.tree_anonymous, measured.phases, kept
    )


_LEFT_OUT = ("layers", "blocks", "tensors", "fallbacks", "warnings", "probe")


class Samples:
    """All samples by the name of their command, and the machine they are of."""

    def __init__(self, path: Path) -> None:
        """Read ``path``, if it is there."""
        self._path = path
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.machine: dict[str, Any] = document.get("machine") or describe_machine()
        self._samples: dict[str, list[Sample]] = {
            name: [_sample(entry) for entry in entries] for name, entries in document.get("samples", {}).items()
        }

    def of(self, name: str, command: str | None = None) -> list[Sample]:
        """Samples of a command; with ``command``, those only that were called so."""
        found = self._samples.get(name, [])
        return [sample for sample in found if command is None or sample.command == command]

    def add(self, name: str, sample: Sample) -> None:
        """Keep a sample; those of the same name that were called otherwise go."""
        self._samples[name] = [*self.of(name, sample.command), sample]
        self.save()

    def forget(self, name: str, count: int = 0) -> None:
        """Keep the first ``count`` samples of a command only."""
        self._samples[name] = self._samples.get(name, [])[:count]

    def save(self) -> None:
        """Write the file; it is whole at any moment."""
        samples = {name: [asdict(sample) for sample in entries] for name, entries in self._samples.items() if entries}
        text = json.dumps({"machine": self.machine, "samples": samples}, indent=1) + "\n"
        temporary = self._path.with_name(f".{self._path.name}.part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._path)

    def names(self) -> list[str]:
        """Of all commands that have samples."""
        return [name for name, entries in self._samples.items() if entries]


def _sample(entry: dict[str, Any]) -> Sample:
    return Sample(**{**entry, "phases": tuple(Phase(**phase) for phase in entry["phases"])})


def describe_machine() -> dict[str, Any]:
    """Processor, memory and versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    packages = ("torch", "numpy", "transformers", "llama-cpp-python")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def code_hash(package: Path) -> str:
    """Twelve hex digits over the sources of a package."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def median_of(samples: Sequence[Sample], what: str = "seconds") -> float | None:
    """Median of an attribute; None of no samples."""
    values = [float(getattr(sample, what)) for sample in samples if getattr(sample, what) is not None]
    return median(values) if values else None
