"""Markdown of the samples of ``benchmarks.scale``: targets, commands, stages, kinds of work, the machine."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import GB, gigabytes, machine_line, median_or_none, number, table
from benchmarks.process_tree import Phase
from benchmarks.scale_rows import FLAGS, Setup
from benchmarks.shapes import SHAPES, count_parameters
from benchmarks.turns import Sample, Samples

_PARTS = {"forward": "blocks", "H": "H"}


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
        """Whether the target is met; None where there is nothing to compare."""
        return None if self.value is None or self.target is None else self.value <= self.target


def render(setup: Setup, samples: Samples) -> str:
    """All tables."""
    sections = [
        ("Targets", targets(results(setup, samples))),
        ("Every command", commands(samples)),
        *((f"Memory by stage: {name}", phases(name, samples)) for name in samples.names() if name.startswith("memory")),
        ("Stages of exports, seconds", stages(samples)),
        *((f"Where the time goes: {name}", kinds(name, samples)) for name in samples.names()),
        ("What the hardware allows", limits(samples)),
    ]
    parts = [f"## {title}\n\n{body}\n" for title, body in sections if body]
    return "\n".join([f"{machine(samples)}\n", *parts])


def machine(samples: Samples) -> str:
    """Sentences about the machine and the sources that were measured."""
    busy = [sample.busy for name in samples.names() for sample in samples.of(name)]
    codes = sorted({sample.code for name in samples.names() for sample in samples.of(name)})
    text = machine_line(samples.machine)
    if busy:
        text += f" Other programs took {min(busy):.0f} to {max(busy):.0f} % of the processor before the runs."
        text += f" Sources {', '.join(codes)}."
    return text


def targets(lines: Sequence[Result]) -> str:
    """Measured values, their targets, and whether these are met."""
    rows = []
    for result in lines:
        value = "not measured" if result.value is None else f"**{result.value:.2f}** {result.unit}".strip()
        target = "" if result.target is None else f"<= {result.target:g} {result.unit}".strip()
        met = {True: "yes", False: "no", None: ""}[result.met]
        rows.append([result.row, result.what, value, target, met, result.note])
    return table(("row", "what", "measured", "target", "met", ""), rows)


def commands(samples: Samples) -> str:
    """Time and memory of each command."""
    rows = []
    for name in samples.names():
        runs = samples.of(name)
        size = runs[-1].report.get("file_bytes")
        peaks = runs[-1].before_validation()
        rows.append(
            [
                name,
                number(_seconds_of(runs), 1),
                ", ".join(f"{sample.seconds:.1f}" for sample in runs),
                number(_work_of(runs), 1) if "work_seconds" in runs[-1].report else "",
                gigabytes(max(sample.peak_rss for sample in runs)),
                gigabytes(max((s.peak_anonymous for s in runs if s.peak_anonymous is not None), default=None)),
                " / ".join(gigabytes(value) for value in peaks) if peaks else "",
                f"{size / 1e6:.1f}" if size else "",
            ]
        )
    memory = ("peak GB", "anonymous GB", "both before validation")
    return table(("command", "seconds", "each", "without start", *memory, "file MB"), rows)


def phases(name: str, samples: Samples) -> str:
    """Peaks between the ends of stages."""
    last: tuple[Phase, ...] = samples.of(name)[-1].phases
    rows = [[phase.title, f"{phase.seconds:.1f}", gigabytes(phase.rss), gigabytes(phase.anonymous)] for phase in last]
    return table(("until the end of", "seconds", "peak GB", "anonymous GB"), rows)


def stages(samples: Samples) -> str:
    """Medians of the seconds that exports report of their own stages."""
    by_name = {
        name: [s.report["seconds"] for s in samples.of(name) if "seconds" in s.report] for name in samples.names()
    }
    by_name = {name: runs for name, runs in by_name.items() if runs and not name.startswith("where")}
    titles = dict.fromkeys(title for runs in by_name.values() for run in runs for title in run)
    rows = [
        [title, *(number(median_or_none(run.get(title) for run in runs), 1) for runs in by_name.values())]
        for title in titles
    ]
    return table(("stage", *by_name), rows)


def kinds(name: str, samples: Samples) -> str:
    """Seconds by kind of work, and how many passes that would be at the peak of the machine."""
    sample: Sample = samples.of(name)[-1]
    profile: dict[str, Any] | None = sample.report.get("profile")
    if profile is None:
        return ""
    ideal = pass_seconds(samples) if name.startswith("where/") else {}
    whole = sum(profile["kinds"].values())
    rows = []
    for kind, seconds in profile["kinds"].items():
        if seconds < 0.001 * whole:
            continue
        passes = ""
        if (part := _PARTS.get(kind)) in ideal:
            passes = ", ".join(f"{seconds / value:.1f} at {rate}" for rate, value in ideal[part].items())
        rows.append([kind, f"{seconds:.1f}", f"{100 * seconds / whole:.1f} %", passes])
    text = table(("kind of work", "seconds", "share", "times the shortest possible pass"), rows)
    unknown = ", ".join(f"{place} {seconds:.1f}" for place, seconds in profile["unknown"].items() if seconds >= 0.5)
    return text + (f"\n\nOther, by function: {unknown}." if unknown else "")


def pass_seconds(samples: Samples) -> dict[str, dict[str, float]]:
    """Seconds of one pass over the calibration tokens at the measured peaks, by part and type of product."""
    counted, rates = samples.of("where/operations")[-1:], samples.of("hardware")[-1:]
    if not counted or not rates:
        return {}
    gflop, rate = counted[0].report["gflop"], rates[0].report
    seconds = {
        name: {kind: gflop[name] / rate[kind] for kind in ("float32", "bfloat16")}
        for name in ("blocks", "attention", "head")
    }
    return seconds | {"H": {"float32 X^T X": gflop["H"] / rate["float32 X^T X"]}}


def limits(samples: Samples) -> str:
    """Measured peaks, and the seconds of one pass at them."""
    runs = samples.of("hardware")
    if not runs:
        return ""
    report = runs[-1].report
    rows = [
        [name, f"{rate:.3g}", "GB/s" if name.endswith(("read", "write")) else "GFLOP/s"]
        for name, rate in report.items()
    ]
    text = table(("what", "rate", ""), rows)
    if ideal := pass_seconds(samples):
        tokens = samples.of("where/operations")[-1].report["tokens"]
        gflop = samples.of("where/operations")[-1].report["gflop"]
        rows = [
            [name, f"{gflop[name]:.0f}", ", ".join(f"{value:.2f} ({kind})" for kind, value in by_kind.items())]
            for name, by_kind in ideal.items()
        ]
        head = (f"one pass over {tokens} tokens, widened model", "GFLOP", "seconds at the peak")
        text += f"\n\n{table(head, rows)}"
    return text


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
        _against_peer("quick", "--effort quick, on a quarter of the tokens, over the same", 1.0, samples),
        _quantize(samples),
        _seconds("geometry", "geometry analysis, 1.5B", samples.of("geometry/1.5b"), 180.0),
        _saliency(samples),
        *(_cached(name, samples) for name in FLAGS),
    ]


def _cached(name: str, samples: Samples) -> Result:
    pair = (f"cache/{name}/second", f"cache/{name}/first")
    return _ratio("cache", f"second budget over the first, {name}", pair, 0.25, samples)


def _memory(row: str, name: str, what: str, target: float, samples: Samples) -> Result:
    runs = samples.of(name)
    if not runs:
        return Result(row, what, None, "GB", target)
    worst = max(runs, key=lambda sample: sample.peak_rss)
    notes = []
    if tokens := re.search(r"--calibration-tokens (\d+)", worst.command):
        notes.append(f"{int(tokens[1]):,} calibration tokens")
    if worst.peak_anonymous is not None:
        notes.append(f"{worst.peak_anonymous / GB:.2f} GB without pages of files")
    if peaks := worst.before_validation():
        notes.append(f"{peaks[0] / GB:.2f} GB before the validation")
    return Result(row, what, worst.peak_rss / GB, "GB", target, "; ".join(notes))


def _growth(setup: Setup, samples: Samples) -> Result:
    last = {size: samples.of(f"memory/geometry/{size}")[-1:] for size in setup.shapes}
    by_count = {count_parameters(SHAPES[setup.shapes[size]]): runs[0] for size, runs in last.items() if runs}
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
    """The whole process of the first over the work of the second, which leaves out a peer's start of Python."""
    ours, peer = (samples.of(name) for name in pair)
    return _compared(row, what, target, (ours, _seconds_of(ours)), (peer, _work_of(peer)))


def _compared(
    row: str,
    what: str,
    target: float,
    ours: tuple[Sequence[Sample], float | None],
    peer: tuple[Sequence[Sample], float | None],
    *notes: str,
) -> Result:
    """Ratio of two medians, each given with the samples that it is of."""
    (our_runs, top), (peer_runs, bottom) = ours, peer
    if top is None or bottom is None:
        return Result(row, what, None, "x", target)
    medians = f"medians of {len(our_runs)} and {len(peer_runs)}"
    note = "; ".join((f"{top:.1f} s over {bottom:.1f} s", medians, *notes))
    return Result(row, what, top / bottom, "x", target, note)


def _quantize(samples: Samples) -> Result:
    ours, peer = samples.of("quantize/ours"), samples.of("quantize/peer")
    what = "quantise and write, imatrix rounding, 1.5B, over llama_model_quantize"
    digests = {sample.report.get("weights") for sample in [*ours, *peer]}
    equal = "the same bytes" if len(digests) == 1 else "DIFFERENT bytes"
    return _compared("quantize", what, 1.1, (ours, _work_of(ours)), (peer, _work_of(peer)), equal)


def _seconds(row: str, what: str, runs: Sequence[Sample], target: float) -> Result:
    return Result(row, what, _seconds_of(runs), "s", target, f"median of {len(runs)}" if runs else "")


def _saliency(samples: Samples) -> Result:
    ours, naive = samples.of("saliency/ours"), samples.of("saliency/naive")
    what = "perplexity drop of all blocks over naive runs"
    notes = []
    if ours and naive:
        pairs = list(zip(ours[-1].report["drops"], naive[-1].report["drops"], strict=True))
        apart = max(abs(a - b) / max(abs(b), 1e-9) for a, b in pairs)
        notes.append(f"{len(pairs)} drops, apart by {apart:.1e} at most")
    return _compared("saliency", what, 0.6, (ours, _work_of(ours)), (naive, _work_of(naive)), *notes)


def _seconds_of(runs: Iterable[Sample]) -> float | None:
    return median_or_none(sample.seconds for sample in runs)


def _work_of(runs: Iterable[Sample]) -> float | None:
    return median_or_none(sample.work_seconds for sample in runs)
