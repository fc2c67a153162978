"""Tables and a plot of what ``bench_quality`` measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Row:
    """One file: how it was made, its size, what making it took, its predicted loss (nats a token) and its scores.

    ``size`` names the preset whose file it must not exceed, or the type of a uniform file. ``seconds`` counts the
    measurements that it needs; ``peak_rss_bytes`` is of the whole process while it was made.
    """

    method: str
    size: str
    file_bytes: int
    block_bpw: float | None
    seconds: float
    peak_rss_bytes: int
    predicted: float | None
    ppl: float
    ppl_se: float
    kld: float
    kld_se: float
    kld_p99: float
    top1: float
    decode_rate: float


def table(rows: list[Row]) -> str:
    """All rows, smallest file first."""
    lines = [
        "| method | at | MB | bpw | PPL | KLD | KLD 99 % | same top token | tokens/s | seconds | peak MB | predicted |",
        "|" + "---|" * 12,
    ]
    for row in sorted(rows, key=lambda r: (r.size not in ("Q2_K", "Q3_K") and 0, r.file_bytes, r.method)):
        cells = (
            row.method,
            row.size,
            f"{row.file_bytes / 1e6:.2f}",
            f"{row.block_bpw:.2f}" if row.block_bpw else "",
            f"{row.ppl:.2f} ± {row.ppl_se:.2f}",
            f"{row.kld:.4f} ± {row.kld_se:.4f}",
            f"{row.kld_p99:.2f}",
            f"{100 * row.top1:.1f} %",
            f"{row.decode_rate:.1f}",
            f"{row.seconds:.0f}",
            f"{row.peak_rss_bytes / 1e6:.0f}",
            f"{row.predicted:.4f}" if row.predicted is not None else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(rows: list[Row], ours: str, peer: str) -> dict[str, float]:
    """KLD of our file over that of the peer's, by size; only where ours is no larger than the preset's file."""
    by_key = {(row.method, row.size): row for row in rows}
    found = {}
    for (method, size), row in by_key.items():
        other, limit = by_key.get((peer, size)), by_key.get(("preset", size))
        if method == ours and other is not None and limit is not None and row.file_bytes <= limit.file_bytes:
            found[size] = row.kld / other.kld
    return found


def summary(rows: list[Row]) -> str:
    """Geometric mean and worst ratio of our methods against the peers."""
    lines = ["| ours | against | geometric mean of KLD ratios | worst | by size |", "|---|---|---|---|---|"]
    for ours in ("loss + feedback", "loss + feedback-once", "loss, all types + feedback", "loss + imatrix"):
        for peer in ("preset", "lagrange"):
            found = ratios(rows, ours, peer)
            if found:
                mean = float(np.exp(np.mean(np.log(list(found.values())))))
                each = ", ".join(f"{size} {value:.2f}" for size, value in found.items())
                lines.append(f"| {ours} | {peer} | {mean:.3f} | {max(found.values()):.3f} | {each} |")
    by_key = {(row.method, row.size): row for row in rows}
    for size in ("Q2_K", "Q3_K"):
        plain = by_key.get(("uniform + imatrix", size))
        for rounding in ("feedback", "feedback-once"):
            own = by_key.get((f"uniform + {rounding}", size))
            if own is not None and plain is not None:
                value = own.kld / plain.kld
                lines.append(f"| uniform {size}, {rounding} | the same, imatrix | {value:.3f} | {value:.3f} | |")
    return "\n".join(lines)


def plot(rows: list[Row], path: Path, title: str) -> None:
    """KL divergence (log) over file size, one line a method; the five random seeds as their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    methods: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.method.startswith("uniform"):
            continue
        name = "random + " + row.method.split(" + ")[1] if row.method.startswith("random") else row.method
        name = "preset, i-quants" if row.method == "preset" and row.size.startswith("IQ") else name
        methods.setdefault(name, {}).setdefault(row.file_bytes, []).append(row.kld)
    for name, points in methods.items():
        sizes = sorted(points)
        strong = name in ("loss + feedback", "preset", "lagrange")
        axis.plot(
            [size / 1e6 for size in sizes],
            [float(np.mean(points[size])) for size in sizes],
            marker="o",
            markersize=4,
            linewidth=2.0 if strong else 1.0,
            linestyle="-" if strong else "--",
            label=name,
        )
    axis.set_yscale("log")
    axis.set_xlabel("file size, MB")
    axis.set_ylabel("mean KL divergence from the original, nats")
    axis.set_title(title, fontsize=10)
    axis.grid(which="both", color="0.92")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def write_report(rows: list[Row], out: Path, title: str) -> str:
    """Write OUT.md and OUT.png; the Markdown."""
    text = f"{summary(rows)}\n\n{table(rows)}\n"
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    plot(rows, out.with_suffix(".png"), title)
    return text
