"""Tables and a plot of the rows of ``benchmarks.quality``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import geometric_mean, number, plus_minus, table, write_markdown
from benchmarks.reference import Score


@dataclass(frozen=True, kw_only=True)
class Row(Score):
    """One file, with its scores.

    Attributes:
        method: metric and rounding, or the peer.
        size: preset whose file it must not exceed, or type of a uniform file.
        file_bytes: its size.
        block_bpw: bits for each weight of the blocks.
        seconds: seconds to make it, with the evidence that it needs.
        peak_rss_bytes: peak of the whole process while it was made.
        predicted: predicted loss in nats a token.
    """

    method: str
    size: str
    file_bytes: int
    block_bpw: float | None
    seconds: float
    peak_rss_bytes: int
    predicted: float | None


def every_row(rows: list[Row]) -> str:
    """All rows, uniform files last and else the smallest first."""
    head = ("method", "at", "MB", "bpw", "PPL", "KLD", "KLD 99 %", "same top token", "tokens/s", "seconds", "peak MB")
    cells = [
        (
            row.method,
            row.size,
            f"{row.file_bytes / 1e6:.2f}",
            number(row.block_bpw, 2),
            plus_minus(row.ppl, row.ppl_se, 2),
            plus_minus(row.kld, row.kld_se, 4),
            f"{row.kld_p99:.2f}",
            f"{100 * row.top1:.1f} %",
            f"{row.decode_rate:.1f}",
            f"{row.seconds:.0f}",
            f"{row.peak_rss_bytes / 1e6:.0f}",
            number(row.predicted, 4),
        )
        for row in sorted(rows, key=lambda row: (row.method.startswith("uniform"), row.file_bytes, row.method))
    ]
    return table((*head, "predicted"), cells)


def ratios(rows: list[Row], ours: str, peer: str) -> dict[str, float]:
    """KLD of our file over that of the peer's, by size; only where ours is no larger than the preset's file."""
    by_key = {(row.method, row.size): row for row in rows}
    by_size = {}
    for (method, size), row in by_key.items():
        other, limit = by_key.get((peer, size)), by_key.get(("preset", size))
        if method == ours and other is not None and limit is not None and row.file_bytes <= limit.file_bytes:
            by_size[size] = row.kld / other.kld
    return by_size


def summary(rows: list[Row]) -> str:
    """Geometric mean and worst ratio of our methods against the peers."""
    cells = []
    for ours in ("loss + feedback", "loss + feedback-once", "loss, all types + feedback", "loss + imatrix"):
        for peer in ("preset", "lagrange"):
            by_size = ratios(rows, ours, peer)
            if by_size:
                mean, worst = geometric_mean(by_size.values()), max(by_size.values())
                each = ", ".join(f"{size} {value:.2f}" for size, value in by_size.items())
                cells.append((ours, peer, f"{mean:.3f}", f"{worst:.3f}", each))
    by_key = {(row.method, row.size): row for row in rows}
    for size in ("Q2_K", "Q3_K"):
        plain = by_key.get(("uniform + imatrix", size))
        for rounding in ("feedback", "feedback-once"):
            fed_back = by_key.get((f"uniform + {rounding}", size))
            if fed_back is not None and plain is not None:
                ratio = f"{fed_back.kld / plain.kld:.3f}"
                cells.append((f"uniform {size}, {rounding}", "the same, imatrix", ratio, ratio, ""))
    return table(("ours", "against", "geometric mean of KLD ratios", "worst", "by size"), cells)


def plot(rows: list[Row], path: Path, title: str) -> None:
    """Draw KL divergence (log) over file size, one line for each method; random seeds as their mean."""
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


def write_report(rows: list[Row], out: Path, title: str) -> None:
    """Write OUT.md and OUT.png."""
    plot(rows, out.with_suffix(".png"), title)
    write_markdown(out, f"{summary(rows)}\n\n{every_row(rows)}\n")
