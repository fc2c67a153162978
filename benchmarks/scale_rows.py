"""The rows of ``bench_scale``: which commands each needs, and what follows from their samples."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.scale_samples import Sample, Samples, median_of
from benchmarks.shapes import SHAPES, count_parameters

TOOLS = Path(__file__).resolve().parent
GB = 1e9


@dataclass(frozen=True)
class Command:
    """A process to measure.

    Attributes:
        name: of its samples.
        arguments: behind the Python interpreter.
        repeats: how often it is measured.
        after: name of the command that must have run right before, and whose cache folder it uses.
    """

    name: str
    arguments: tuple[str, ...]
    repeats: int = 1
    after: str | None = None

    @property
    def subcommand(self) -> str | None:
        """Of lieq-edge; None for other programs."""
        return next((name for name in ("export", "analyze") if name in self.arguments), None)


@dataclass(frozen=True)
class Result:
    """One line of the table of targets; ``value`` must not exceed ``target``."""

    row: str
    what: str
    value: float | None
    unit: str
    target: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """None where there is nothing to compare."""
        return None if self.value is None or self.target is None else self.value <= self.target


@dataclass(frozen=True)
class Setup:
    """What is measured with what.

    Attributes:
        work: folder of the models and of all files that are made.
        shapes: names in ``shapes.SHAPES`` by size.
        demo: the model that is widened.
        hidden: what it is widened to.
        tokens: of calibration where a peer runs on the same.
        saliency_tokens: for the perplexity drops.
        memory_tokens: of calibration in the row memory-quality, None for what an export takes by itself.
        preset: of llama.cpp, whose file ours must not exceed.
        budget: of models of real shapes.
        repeats: of everything but the largest rows.
        quick: sizes that try the tool out.
        cache: subcommands of lieq-edge that have ``--cache-dir``.
    """

    work: Path
    shapes: Mapping[str, str]
    demo: str = "demo"
    hidden: int = 768
    tokens: int = 16384
    saliency_tokens: int = 4096
    memory_tokens: int | None = None
    preset: str = "Q3_K_M"
    budget: str = "3.0bpw"
    repeats: int = 3
    threads: int | None = None
    quick: bool = False
    cache: frozenset[str] = frozenset()

    def path(self, name: str) -> str:
        """A file or folder in the work folder."""
        return str(self.work / name)

    def model(self, size: str) -> str:
        """Directory of the model of a size."""
        return self.path(self.shapes[size])

    def export(self, model: str, *flags: str) -> tuple[str, ...]:
        """Arguments of an export, which replaces its output."""
        arguments = ("-m", "lieq_edge", "export", model, "--out", self.path("ours.gguf"), "--force", "--json", *flags)
        chunks = ("--chunks", "2") if self.quick and "--no-validate" not in flags else ()
        return (*arguments, "--calibration", "docs", *chunks, *self._threads())

    def work_on(self, *arguments: str) -> tuple[str, ...]:
        """Arguments of a piece of work of ``scale_work``."""
        return (str(TOOLS / "scale_work.py"), *arguments, *self._threads())

    def _threads(self) -> tuple[str, ...]:
        return () if self.threads is None else ("--threads", str(self.threads))

    @property
    def token_file(self) -> str:
        """Windows of tokens that the peer of an export calibrates on."""
        return self.path(f"wide-{self.tokens}.npy")

    @property
    def peer_size(self) -> Path:
        """File with the number of bytes of the peer's file."""
        return self.work / f"size-{self.preset}"

    def size_flags(self) -> tuple[str, ...]:
        """Flags of exports of the widened model: the peer's tokens, and at most the size of its file."""
        size = self.peer_size.read_text(encoding="utf-8").strip()
        return ("--budget", f"{size}B", "--calibration-tokens", str(self.tokens), "--no-validate")


QUALITY = ("--metric", "loss")
ONCE = (*QUALITY, "--rounding", "feedback-once")
GEOMETRY = ("--metric", "geometry", "--rounding", "imatrix")


def hardware(setup: Setup) -> list[Command]:
    quick = ("--sizes", "512", "1024", "--seconds", "0.2", "--disk-bytes", str(1 << 26)) if setup.quick else ()
    return [Command("hardware", (str(TOOLS / "hardware.py"), "--folder", str(setup.work), *quick, *setup._threads()))]


def wide_peers(setup: Setup) -> list[Command]:
    files = (setup.path("wide-f32.gguf"), setup.token_file)
    peer = setup.work_on("peer-export", *files, setup.path("peer.gguf"), setup.preset)
    own = setup.work_on("torch-imatrix", setup.path("wide"), files[1])
    return [Command("wide/peer", peer, setup.repeats), Command("wide/torch-imatrix", own, setup.repeats)]


def wide_quality(setup: Setup) -> list[Command]:
    ours = setup.export(setup.path("wide"), *QUALITY, *setup.size_flags())
    return [*wide_peers(setup), Command("wide/quality", ours, setup.repeats)]


def wide_once(setup: Setup) -> list[Command]:
    ours = setup.export(setup.path("wide"), *ONCE, *setup.size_flags())
    return [*wide_peers(setup), Command("wide/once", ours, setup.repeats)]


def wide_geometry(setup: Setup) -> list[Command]:
    ours = setup.export(setup.path("wide"), *GEOMETRY, *setup.size_flags())
    return [*wide_peers(setup), Command("wide/geometry", ours, setup.repeats)]


def quantize(setup: Setup) -> list[Command]:
    types = ("--types", setup.path("types.json"), "--budget", setup.budget)
    ours = setup.work_on("quantize-ours", setup.model("1.5b"), setup.path("ours.gguf"), *types)
    peer = setup.work_on("quantize-peer", setup.path("1.5b-bf16.gguf"), setup.path("peer.gguf"), *types)
    # Ours writes the types down that the peer takes.
    return [Command("quantize/ours", ours, setup.repeats), Command("quantize/peer", peer, setup.repeats)]


def geometry(setup: Setup) -> list[Command]:
    arguments = ("-m", "lieq_edge", "analyze", setup.model("1.5b"), "--metric", "geometry", "--json")
    return [Command("geometry/1.5b", (*arguments, *setup._threads()))]


def saliency(setup: Setup) -> list[Command]:
    model = setup.path("wide") if setup.quick else setup.demo
    tokens = ("--tokens", str(setup.saliency_tokens))
    return [
        Command("saliency/ours", setup.work_on("saliency", model, *tokens), setup.repeats),
        Command("saliency/naive", setup.work_on("saliency-naive", model, *tokens), setup.repeats),
    ]


def memory_quality(setup: Setup) -> list[Command]:
    tokens = () if setup.memory_tokens is None else ("--calibration-tokens", str(setup.memory_tokens))
    flags = ("--budget", setup.budget, *tokens)
    return [
        Command(f"memory/{name}/1.5b", setup.export(setup.model("1.5b"), *own, *flags))
        for name, own in (("quality", QUALITY), ("once", ONCE))
    ]


def memory_geometry(setup: Setup) -> list[Command]:
    flags = (*GEOMETRY, "--budget", setup.budget)
    return [Command(f"memory/geometry/{size}", setup.export(setup.model(size), *flags)) for size in setup.shapes]


def cache(setup: Setup) -> list[Command]:
    if "export" not in setup.cache:
        return []
    found = []
    for name, flags in _ALL:
        tokens = ("--calibration-tokens", str(setup.tokens), "--no-validate")
        first, second = (
            setup.export(setup.path("wide"), *flags, *tokens, "--budget", budget) for budget in ("3.0bpw", "3.6bpw")
        )
        found.append(Command(f"cache/{name}/first", first, setup.repeats))
        found.append(Command(f"cache/{name}/second", second, setup.repeats, after=f"cache/{name}/first"))
    return found


def where(setup: Setup) -> list[Command]:
    found = [_profile(setup, f"where/{name}", setup.path("wide"), *flags, *setup.size_flags()) for name, flags in _ALL]
    tokens = ("--tokens", str(setup.tokens))
    return [*found, Command("where/operations", setup.work_on("operations", setup.path("wide-f32.gguf"), *tokens))]


def where_large(setup: Setup) -> list[Command]:
    flags = ("--budget", setup.budget, "--no-validate")
    return [_profile(setup, f"where-1.5b/{name}", setup.model("1.5b"), *own, *flags) for name, own in _ALL]


_ALL = (("quality", QUALITY), ("once", ONCE), ("geometry", GEOMETRY))


def _profile(setup: Setup, name: str, model: str, *flags: str) -> Command:
    export = setup.export(model, *flags)[2:]
    return Command(name, (str(TOOLS / "scale_profile.py"), setup.path("profile.json"), "--", *export))


ROWS: dict[str, Callable[[Setup], list[Command]]] = {
    "hardware": hardware,
    "wide-quality": wide_quality,
    "wide-once": wide_once,
    "wide-geometry": wide_geometry,
    "quantize": quantize,
    "geometry": geometry,
    "saliency": saliency,
    "memory-quality": memory_quality,
    "memory-geometry": memory_geometry,
    "cache": cache,
    "where": where,
    "where-1.5b": where_large,
}
"""Commands of each row; rows that share commands are made together, so that peers alternate with all of ours."""

OPTIONAL = ("where-1.5b",)
"""Rows that are made only when they are named."""


def groups(rows: Sequence[str], setup: Setup) -> list[list[Command]]:
    """Commands to alternate between, by group of rows, each command once."""
    found: list[dict[str, Command]] = []
    for row in rows:
        commands = {command.name: command for command in ROWS[row](setup)}
        shared = next((group for group in found if group.keys() & commands.keys()), None)
        if shared is None:
            found.append(commands)
        else:
            shared.update({name: command for name, command in commands.items() if name not in shared})
    return [list(group.values()) for group in found]


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """k of the fit ``y = c x^k`` by least squares of the logarithms; None of fewer than two different x."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def results(setup: Setup, samples: Samples) -> list[Result]:
    """All rows of the table of targets; those without samples have no value."""
    return [
        _memory("memory-quality", "memory/quality/1.5b", "peak memory, whole quality export, 1.5B", 3.0, samples),
        _memory("memory-quality", "memory/once/1.5b", "the same with feedback-once", 3.0, samples),
        _memory(
            "memory-geometry", "memory/geometry/4b", "peak memory, 4B, geometry and imatrix rounding", 3.5, samples
        ),
        _growth(setup, samples),
        _against_peer("quality", "quality export over llama.cpp's imatrix + preset", 2.0, samples),
        _against_peer("once", "the same with feedback-once", 2.0, samples),
        _against_peer("geometry", "geometry and importance rounding over the same", 1.0, samples),
        _quantize(samples),
        _seconds("geometry", "geometry analysis, 1.5B", samples.of("geometry/1.5b"), 180.0),
        _saliency(samples),
        *(_cached(setup, name, samples) for name, _ in _ALL),
    ]


def _cached(setup: Setup, name: str, samples: Samples) -> Result:
    what = f"second budget over the first, {name}"
    pair = (f"cache/{name}/second", f"cache/{name}/first")
    if "export" not in setup.cache and not samples.of(pair[0]):
        return Result("cache", what, None, "x", 0.25, "not available: this lieq-edge has no --cache-dir")
    return _ratio("cache", what, pair, 0.25, samples)


def _memory(row: str, name: str, what: str, target: float, samples: Samples) -> Result:
    found = samples.of(name)
    if not found:
        return Result(row, what, None, "GB", target)
    worst = max(found, key=lambda sample: sample.peak_rss)
    notes = []
    if given := re.search(r"--calibration-tokens (\d+)", worst.command):
        notes.append(f"{int(given[1]):,} calibration tokens")
    if worst.peak_anonymous is not None:
        notes.append(f"{worst.peak_anonymous / GB:.2f} GB without pages of files")
    if peaks := worst.before_validation():
        notes.append(f"{peaks[0] / GB:.2f} GB before the validation")
    return Result(row, what, worst.peak_rss / GB, "GB", target, "; ".join(notes))


def _growth(setup: Setup, samples: Samples) -> Result:
    found = {size: samples.of(f"memory/geometry/{size}")[-1:] for size in setup.shapes}
    by_count = {count_parameters(SHAPES[setup.shapes[size]]): made[0] for size, made in found.items() if made}
    value = exponent([(count, sample.peak_rss) for count, sample in by_count.items()])
    notes = []
    anonymous = exponent([(count, sample.peak_anonymous or 0) for count, sample in by_count.items()])
    if anonymous is not None:
        notes.append(f"{anonymous:.2f} without pages of files")
    before = exponent([(n, peaks[0]) for n, sample in by_count.items() if (peaks := sample.before_validation())])
    if before is not None:
        notes.append(f"{before:.2f} before the validation")
    notes.append(f"{len(by_count)} of {len(setup.shapes)} sizes")
    return Result("memory-geometry", "exponent of peak memory over parameters", value, "", 1.0, "; ".join(notes))


def _against_peer(name: str, what: str, target: float, samples: Samples) -> Result:
    return _ratio(f"wide-{name}", what, (f"wide/{name}", "wide/peer"), target, samples)


def _ratio(row: str, what: str, pair: tuple[str, str], target: float, samples: Samples) -> Result:
    """The whole process of the first over the work of the second, without a peer's start of Python."""
    mine, theirs = (samples.of(name) for name in pair)
    top, bottom = median_of(mine), median_of(theirs, "work_seconds")
    if top is None or bottom is None:
        return Result(row, what, None, "x", target)
    return Result(row, what, top / bottom, "x", target, f"{top:.1f} s over {bottom:.1f} s; {_runs(mine, theirs)}")


def _runs(mine: Sequence[Sample], theirs: Sequence[Sample]) -> str:
    return f"medians of {len(mine)} and {len(theirs)}"


def _quantize(samples: Samples) -> Result:
    mine, theirs = samples.of("quantize/ours"), samples.of("quantize/peer")
    what = "quantise and write, imatrix rounding, 1.5B, over llama_model_quantize"
    if not mine or not theirs:
        return Result("quantize", what, None, "x", 1.1)
    top, bottom = (median(sample.work_seconds for sample in found) for found in (mine, theirs))
    same = {sample.report.get("weights") for sample in [*mine, *theirs]}
    equal = "the same bytes" if len(same) == 1 else "DIFFERENT bytes"
    note = f"{top:.1f} s over {bottom:.1f} s; {_runs(mine, theirs)}; {equal}"
    return Result("quantize", what, top / bottom, "x", 1.1, note)


def _seconds(row: str, what: str, found: Sequence[Sample], target: float) -> Result:
    return Result(row, what, median_of(found), "s", target, f"{len(found)} runs" if found else "")


def _saliency(samples: Samples) -> Result:
    mine, theirs = samples.of("saliency/ours"), samples.of("saliency/naive")
    what = "perplexity drop of all blocks over naive runs"
    if not mine or not theirs:
        return Result("saliency", what, None, "x", 0.6)
    top, bottom = (median(sample.work_seconds for sample in found) for found in (mine, theirs))
    pairs = list(zip(mine[-1].report["drops"], theirs[-1].report["drops"], strict=True))
    apart = max(abs(a - b) / max(abs(b), 1e-9) for a, b in pairs)
    note = f"{top:.1f} s over {bottom:.1f} s; {_runs(mine, theirs)}; {len(pairs)} drops, apart by {apart:.1e} at most"
    return Result("saliency", what, top / bottom, "x", 0.6, note)
