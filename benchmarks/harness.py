"""What the benchmarks share: arguments, records that survive an interruption, tables, means, and the machine in a line.

Processes that are measured from outside, and taking turns between them, are in ``benchmarks.turns``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.internals import Terminal, receive_with
from lieq_edge import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)
else:
    Record = TypeVar("Record")

GB = 1e9
VERSIONS = ("torch", "numpy", "transformers", "llama-cpp-python")
"""Packages whose versions are written beside the figures."""


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The description as it is written, and the default of each argument that has one and a help text."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default not in (None, False, "", []) else action.help


COMMON: dict[str, dict[str, Any]] = {
    "model": {"help": "Hugging Face directory, .gguf file, or demo"},
    "--text": {"type": Path, "help": "held-out text to score on; the built-in text when left out"},
    "--out": {"type": Path, "required": True, "help": "path without ending of the files to write"},
    "--work": {"type": Path, "required": True, "help": "folder for models and other large files (GB); kept"},
    "--calibration": {"default": "docs", "help": "calibration text: docs, self, mixed, or a file"},
    "--calibration-tokens": {"type": int, "default": 16384, "help": "tokens of the calibration text"},
    "--context": {"type": int, "default": 512, "help": "tokens of a window of the held-out text"},
    "--chunks": {"type": int, "default": 16, "help": "windows of the held-out text"},
    "--threads": {"type": int, "help": "threads of every program; all cores when left out"},
    "--repeats": {"type": int, "default": 3, "help": "runs of each command"},
}
"""Arguments that mean the same in every benchmark."""


def command_line(document: str | None, *arguments: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with some of the ``COMMON`` arguments.

    Args:
        document: docstring of the benchmark, shown by ``--help``.
        arguments: keys of ``COMMON``.
        defaults: other defaults of these arguments, by name.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=_Help)
    for name in arguments:
        parser.add_argument(name, **COMMON[name])
    parser.set_defaults(**defaults)
    return parser


def exit_code(work: Callable[[], int | None]) -> int:
    """Exit code of a benchmark, whose progress is shown: that of ``work``, or 2 when it refuses its input."""
    try:
        with receive_with(Terminal()):
            return work() or 0
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


class Records(Generic[Record]):
    """Records of one dataclass in a JSON file, which is written again with each of them: a long run can be resumed."""

    def __init__(self, path: Path, kind: type[Record]) -> None:
        """Read the records that ``path`` holds already.

        Args:
            path: JSON file; it need not exist yet.
            kind: dataclass of the records.
        """
        self._path = path
        self._records = [kind(**entry) for entry in read_json(path, [])]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def add(self, *records: Record) -> None:
        """Append records and write the file."""
        self._records += records
        write_json(self._path, [asdict(record) for record in self._records])


def read_json(path: Path, default: Any) -> Any:
    """The document of a JSON file, or ``default`` when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file; it is complete at any moment."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_markdown(out: Path, text: str) -> None:
    """Write OUT.md, and print it."""
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, end="" if text.endswith("\n") else "\n")


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Put the seconds that the body takes under ``name``."""
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without a line break at its end; empty without rows."""
    rows = list(rows)
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def number(value: float | None, digits: int) -> str:
    """A cell with so many decimal places, empty without a value."""
    return "" if value is None else f"{value:.{digits}f}"


def plus_minus(mean: float | None, error: float | None, digits: int) -> str:
    """A cell with a mean and its standard error, empty without one of them."""
    return "" if mean is None or error is None else f"{mean:.{digits}f} ± {error:.{digits}f}"


def gigabytes(size: float | None) -> str:
    """A cell with a number of bytes in GB, empty without a value."""
    return number(None if size is None else size / GB, 2)


def geometric_mean(ratios: Iterable[float]) -> float:
    """Geometric mean of positive numbers."""
    return float(np.exp(np.mean(np.log(list(ratios)))))


def mean_and_error(values: npt.ArrayLike) -> tuple[float, float]:
    """Mean of independent values and its standard error, which is 0 of a single value."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std() / np.sqrt(max(array.size - 1, 1)))


def median_or_none(values: Iterable[float | None]) -> float | None:
    """Median of the values that are there; None without any."""
    present = [value for value in values if value is not None]
    return median(present) if present else None


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in VERSIONS},
    }


def machine_line(machine: dict[str, Any]) -> str:
    """One sentence about the machine that figures were made on, from ``describe_machine``."""
    versions = ", ".join(f"{name} {machine[name]}" for name in VERSIONS)
    memory = f"{machine['memory_bytes'] / GB:.1f} GB"
    return f"{machine['processor']}, {machine['cores']} cores, {memory}; Python {machine['python']}, {versions}."


def _processor() -> str:
    """Name of the processor, which only Linux gives in full."""
    name = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if not described.exists():
        return name
    lines = described.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
