"""Markdown of what ``bench_scale`` measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.process_tree import Phase
from benchmarks.scale_rows import GB, Result, Setup, results
from benchmarks.scale_samples import Sample, Samples, median_of

_PARTS = {"forward": "blocks", "H": "H"}


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, empty without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine(samples: Samples) -> str:
    """One sentence about where and of what the figures are."""
    about = samples.machine
    busy = [sample.busy for name in samples.names() for sample in samples.of(name)]
    codes = sorted({sample.code for name in samples.names() for sample in samples.of(name)})
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "numpy", "transformers", "llama-cpp-python"))
    text = f"{about['processor']}, {about['cores']} cores, {about['memory_bytes'] / GB:.1f} GB; {versions}."
    if busy:
        text += f" Other programs took {min(busy):.0f} to {max(busy):.0f} % of the processor before the runs."
        text += f" Sources {', '.join(codes)}."
    return text


def targets(found: Sequence[Result]) -> str:
    """What was asked for, what was measured, and whether that is enough."""
    rows = []
    for result in found:
        value = "not measured" if result.value is None else f"**{result.value:.2f}** {result.unit}".strip()
        target = "" if result.target is None else f"<= {result.target:g} {result.unit}".strip()
        met = {True: "yes", False: "no", None: ""}[result.met]
        rows.append([result.row, result.what, value, target, met, result.note])
    return table(("row", "what", "measured", "target", "met", ""), rows)


def commands(samples: Samples) -> str:
    """Time and memory of each command."""
    rows = []
    for name in samples.names():
        found = samples.of(name)
        each = ", ".join(f"{sample.seconds:.1f}" for sample in found)
        size = found[-1].report.get("file_bytes")
        peaks = found[-1].before_validation()
        rows.append(
            [
                name,
                f"{median_of(found) or 0:.1f}",
                each,
                f"{median_of(found, 'work_seconds') or 0:.1f}" if "work_seconds" in found[-1].report else "",
                _gigabytes(max(sample.peak_rss for sample in found)),
                _gigabytes(max((s.peak_anonymous for s in found if s.peak_anonymous is not None), default=None)),
                " / ".join(_gigabytes(value) for value in peaks) if peaks else "",
                f"{size / 1e6:.1f}" if size else "",
            ]
        )
    memory = ("peak GB", "anonymous GB", "both before validation")
    return table(("command", "seconds", "each", "without start", *memory, "file MB"), rows)


def phases(name: str, samples: Samples) -> str:
    """Peaks between the ends of stages."""
    found: tuple[Phase, ...] = samples.of(name)[-1].phases
    rows = [[p.title, f"{p.seconds:.1f}", _gigabytes(p.rss), _gigabytes(p.anonymous)] for p in found]
    return table(("until the end of", "seconds", "peak GB", "anonymous GB"), rows)


def stages(samples: Samples) -> str:
    """What exports report of their own stages, medians."""
    by_name = {name: [s for s in samples.of(name) if "seconds" in s.report] for name in samples.names()}
    by_name = {name: found for name, found in by_name.items() if found and not name.startswith("where")}
    titles = list(dict.fromkeys(title for found in by_name.values() for s in found for title in s.report["seconds"]))
    rows = []
    for title in titles:
        row = [title]
        for found in by_name.values():
            values = sorted(s.report["seconds"][title] for s in found if title in s.report["seconds"])
            row.append(f"{values[len(values) // 2]:.1f}" if values else "")
        rows.append(row)
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
    found = {
        name: {kind: gflop[name] / rate[kind] for kind in ("float32", "bfloat16")}
        for name in ("blocks", "attention", "head")
    }
    return found | {"H": {"float32 X^T X": gflop["H"] / rate["float32 X^T X"]}}


def limits(samples: Samples) -> str:
    """Measured peaks, and what one pass would take at them."""
    found = samples.of("hardware")
    if not found:
        return ""
    report = found[-1].report
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


def _gigabytes(value: int | None) -> str:
    return "" if value is None else f"{value / GB:.2f}"
