"""Tables, sentences and a picture of the rows of ``benchmarks.shootout``."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import ptqtp
from benchmarks.harness import machine_line, mean_and_error, plus_minus, table, write_markdown
from benchmarks.quality_report import Row

_WIDTH = 125

Windows = npt.NDArray[np.float64]
Method = dict[str, list[Row]]
"""Rows of one method by size; several where there are seeds."""


def by_method(rows: Sequence[Row], sizes: Sequence[str]) -> dict[str, Method]:
    """Rows at some sizes by method; seeds of the metric random together."""
    methods: dict[str, Method] = {}
    for row in rows:
        if row.size in sizes:
            name = "random + " + row.method.split(" + ")[1] if row.method.startswith("random ") else row.method
            methods.setdefault(name, {}).setdefault(row.size, []).append(row)
    return methods


def ratio(method: Method, base: Method) -> tuple[float, float] | None:
    """KL divergence over that of a base, geometric mean over sizes and windows, and its standard error.

    The windows are paired: the error is that of the difference of logarithms, window by window.
    """
    sizes = [size for size in base if size in method]
    if not sizes:
        return None
    logs = np.mean([np.log(_windows(method[size]) / _windows(base[size])) for size in sizes], axis=0)
    mean, error = mean_and_error(logs)
    return float(np.exp(mean)), float(np.exp(mean)) * error


def _windows(rows: Sequence[Row]) -> Windows:
    """Divergence of each window, mean over seeds."""
    return np.mean([row.window_klds for row in rows], axis=0)


def beaten(method: Method, base: Method) -> tuple[int, int]:
    """How many files of the base have more divergence than the method's of their size, and how many there are."""
    pairs = [(method[size][0].kld, row.kld) for size in base if size in method for row in base[size]]
    return sum(own < other for own, other in pairs), len(pairs)


def ranking(
    methods: dict[str, Method], base: str, sizes: Sequence[str], without: Sequence[str] = ()
) -> list[list[str]]:
    """A line for each method, the least divergence first: rank, divergence by size, and the ratio to the base.

    Sizes in ``without`` are shown, and count for neither rank nor ratio.
    """
    counting = {size: rows for size, rows in methods[base].items() if size not in without}
    found = {name: ratio(method, counting) for name, method in methods.items()}
    order = sorted((name for name in methods if found[name]), key=lambda name: found[name] or (0.0, 0.0))
    lines = []
    for rank, name in enumerate(order, start=1):
        cells = [_cell(methods[name].get(size, [])) for size in sizes]
        mean, error = found[name] or (np.nan, np.nan)
        lines.append([name, str(rank), *cells, "1" if name == base else plus_minus(mean, error, 3)])
    return lines


def _cell(rows: Sequence[Row]) -> str:
    """Divergence with its standard error; of several seeds their mean and standard deviation."""
    if not rows:
        return ""
    if len(rows) == 1:
        return plus_minus(rows[0].kld, rows[0].kld_se, 4)
    values = [row.kld for row in rows]
    return plus_minus(float(np.mean(values)), float(np.std(values, ddof=1)), 4) + " (sd)"


def metrics_part(methods: dict[str, Method], rounding: str, sizes: Sequence[str]) -> list[str]:
    """The table of the metrics with one rounding, and what it says."""
    own = {name: method for name, method in methods.items() if name.endswith(f" + {rounding}")}
    base = f"random + {rounding}"
    if base not in own:
        return []
    lines = []
    chances: dict[str, tuple[int, int]] = {}
    full = [size for size, files in own[base].items() if len(files) > 1 and len({row.kld for row in files}) == 1]
    counting = {size: files for size, files in own[base].items() if size not in full}
    ratios = {name: ratio(method, counting) for name, method in own.items()}
    for line in ranking(own, base, sizes, full):
        name = line[0]
        if name != base:
            chances[name.split(" + ")[0]] = beaten(own[name], counting)
        count = "" if name == base else "{} of {}".format(*chances[name.split(" + ")[0]])
        lines.append([name.split(" + ")[0], *line[1:], count])
    head = ["metric", "rank", *sizes, "over random", "random files it beats"]
    parts = [table(head, lines), _verdict(chances, {name.split(" + ")[0]: value for name, value in ratios.items()})]
    scatter = {
        size: np.std(klds, ddof=1) / np.mean(klds)
        for size, rows in counting.items()
        if len(klds := [row.kld for row in rows]) > 1
    }
    if scatter:
        seeds = ", ".join(f"{100 * share:.0f} % at {size}" for size, share in scatter.items())
        parts[-1] += (
            f" The seeds scatter by {seeds} (standard deviation), which the errors of these ratios do not include: a "
            "metric that is nearer to 1 than that may be no better than luck."
        )
    if full:
        parts.append(
            f"At {_list(full)} every block has the most bits that the levels 2, 3 and 4 allow: all scores of blocks "
            "give the same file, so that this size is left out of rank and ratio."
        )
    return parts


def _verdict(chances: dict[str, tuple[int, int]], ratios: dict[str, tuple[float, float] | None]) -> str:
    """Sentences about metrics against chance."""

    def share(name: str) -> str:
        found = ratios[name]
        return f"{name} ({plus_minus(found[0], found[1], 2)})" if found else name

    always = [name for name, (won, all_files) in chances.items() if won == all_files]
    never = [name for name, (won, _) in chances.items() if won == 0]
    mixed = [name for name in chances if name not in always and name not in never]
    sentences = []
    if always:
        sentences.append(f"Nearer to the original than every random file of their size: {_list(map(share, always))}.")
    if mixed:
        sentences.append(f"Better than some random files and worse than others: {_list(map(share, mixed))}.")
    if never:
        sentences.append(f"Worse than every random file: {_list(map(share, never))}.")
    return " ".join([*sentences, "In brackets is the divergence as a part of the mean of random."])


def _list(names: Any) -> str:
    return ", ".join(names)


def text(rows: Sequence[Row], args: argparse.Namespace, begun: dict[str, Any], command: str) -> str:
    """The whole page."""
    sizes = args.sizes.split(",")
    methods = by_method(rows, sizes)
    machine = machine_line(begun["machine"])
    bytes_of = {row.size: row.file_bytes for row in rows if row.method == "preset" and row.size in sizes}
    limits = ", ".join(f"{size} ({count / 1e6:.2f} MB)" for size, count in bytes_of.items())
    windows = max(len(row.window_klds) for row in rows)
    roundings = {name: method for name, method in methods.items() if name.startswith(f"{args.metric} + ")}
    base = f"{args.metric} + nearest"
    base = base if base in roundings else next(iter(roundings), "")
    strongest = {name: methods[name] for name in ("preset", "lagrange") if name in methods} | roundings
    parts = [
        "# Shootout: every metric, every rounding and the peers at equal bytes",
        f"KL divergence from the original in nats a token, {windows} windows of {args.context} tokens, by the file "
        f"size of llama.cpp's presets {limits}; none of our files is larger. All calibrate on "
        f"{args.calibration_tokens} tokens of the text `{args.calibration}`. {begun['date']}; {machine}",
        f"    {command}",
        "± is the standard error over tokens; for *random*, the standard deviation of the seeds. A ratio is the "
        "geometric mean over sizes and windows; its standard error is that of paired windows. The errors say how "
        "sure a figure is for this model and text, and not that another model ranks the same.",
        "## Metrics",
        f"All with the rounding `{args.rounding}`. *geometry* is compactness alone, *saliency* the perplexity drop, "
        "*energy* the energy gain, and *composite* the combined score of the three. All but *loss* give whole blocks "
        "their bits and leave the embedding in Q6_K; *loss* chooses every matrix, the embedding too.",
        *metrics_part(methods, args.rounding, sizes),
        "## Roundings",
        f"All with the metric `{args.metric}`. *nearest* weighs all columns alike; its types are chosen by the "
        "predictions for importance rounding.",
        table(["rounding", "rank", *sizes, f"over {base.split(' + ')[-1]}"], _renamed(ranking(roundings, base, sizes)))
        if roundings
        else "",
        "## Peers",
        "*preset* is llama.cpp's quantiser with the importance of the same text, *lagrange* chooses types tensor by "
        "tensor by weighted error.",
        table(["file", "rank", *sizes, "over preset"], ranking(strongest, "preset", sizes)),
    ]
    if args.ptqtp:
        parts += [
            "## PTQTP",
            "Trit planes take 4.25 bits a weight with 2 bits a trit, and 3.45 (*dense*) with five trits in a byte. "
            "llama.cpp has no type for either, so the decoded weights were scored. *all* stands for every matrix of "
            "the blocks in one type, and the embedding in Q6_K, as in PTQTP's file. PTQTP weighs all columns alike, so "
            "that the files without importance are the fair comparison. [method.md](method.md#ptqtp) says more.",
            ptqtp.section(rows),
        ]
    parts.append(f"![KL divergence over file size]({args.out.name}.png)")
    return "\n\n".join(_wrapped(part) for part in parts if part) + "\n"


def _wrapped(part: str) -> str:
    """Prose and commands in lines of a length that can be read; tables and headings as they are."""
    if part.startswith(("|", "#", "!")):
        return part
    indent = "    " if part.startswith("    ") else ""
    more = "        " if indent else ""
    return textwrap.fill(
        part.strip(),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _renamed(lines: list[list[str]]) -> list[list[str]]:
    return [[line[0].split(" + ")[-1], *line[1:]] for line in lines]


def plot(rows: Sequence[Row], path: Path, args: argparse.Namespace) -> None:
    """Draw KL divergence over file size: metrics on the left, roundings and peers on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = by_method(rows, args.sizes.split(","))
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for name, method in methods.items():
        ours = " + " in name
        points = [(rows_[0].file_bytes / 1e6, rows_) for rows_ in method.values()]
        points.sort(key=lambda point: point[0])
        x, means = [point[0] for point in points], [float(np.mean([r.kld for r in point[1]])) for point in points]
        if ours and name.endswith(f" + {args.rounding}"):
            left.plot(x, means, marker="o", markersize=4, label=name.split(" + ")[0])
        if name.startswith("random") and name.endswith(args.rounding):
            low, high = ([choose(r.kld for r in point[1]) for point in points] for choose in (min, max))
            left.fill_between(x, low, high, color="0.85", label="random, range")
        if not ours or name.startswith(f"{args.metric} + "):
            right.plot(x, means, marker="o", markersize=4, label=name)
    for row in rows:
        if row.method == "ptqtp":
            right.plot([row.file_bytes / 1e6], [row.kld], marker="x", linestyle="", label=row.size)
    for axis, title in ((left, f"metrics, rounding {args.rounding}"), (right, "roundings and peers")):
        axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("file size, MB")
        axis.grid(which="both", color="0.92")
        axis.legend(fontsize=7)
    left.set_ylabel("mean KL divergence, nats")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def write_report(rows: Sequence[Row], args: argparse.Namespace, begun: dict[str, Any], command: str) -> None:
    """Write OUT.md and OUT.png."""
    plot(rows, args.out.with_suffix(".png"), args)
    write_markdown(args.out, text(rows, args, begun, command))
