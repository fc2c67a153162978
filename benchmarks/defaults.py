"""The plain command beside other flags: KL divergence at equal sizes, on several held-out texts.

    python -m benchmarks.heldout other.txt
    python -m benchmarks.defaults wide --texts wiki.txt other.txt --work work --out defaults

Each variant is an export of all sizes at once (``-b Q2_K -b Q3_K_M -b Q4_K_M``, or ``--sizes``) by a process of its
own; the files are then scored on every text against the model. ``--variants`` takes those below, any flags in quotes,
or ``presets``: llama.cpp's presets of these sizes, with an imatrix of the text that the plain command reads. Written
are OUT.md and OUT.json; rows that OUT.json has are not made again. The last column of the table is the mean over sizes
and texts of the KL divergence over that of the plain command.
"""

from __future__ import annotations

import argparse
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Records, command_line, exit_code, table, write_markdown
from benchmarks.internals import Source, log, validation_text
from benchmarks.sized import export_sizes, make_presets, reference_cache, score
from lieq_edge import open_source

PLAIN, PRESETS = "plain", "presets"
VARIANTS = (
    PLAIN,
    "--effort quick",
    "--effort best",
    "--rounding feedback",
    "--calibration self",
    "--calibration docs",
    "--calibration mixed",
    "--calibration-tokens x2",
    "--types all",
)
"""The plain command, and flags beside it; ``presets`` stands for llama.cpp's own files."""

SIZES = ("Q2_K", "Q3_K_M", "Q4_K_M")


@dataclass(frozen=True)
class Row:
    """One file on one text; ``seconds`` are those of the export of all sizes together."""

    variant: str
    size: str
    text: str
    file_bytes: int
    ppl: float
    kld: float
    kld_se: float
    seconds: float


def flags_of(variant: str, tokens: int) -> tuple[str, ...]:
    """Flags of a variant, which is named by them; twice the tokens are twice ``tokens``."""
    if variant.endswith("x2"):
        return ("--calibration-tokens", str(2 * tokens))
    return () if variant == PLAIN else tuple(shlex.split(variant))


def bench(args: argparse.Namespace, rows: Records[Row]) -> None:
    """Make and score what is missing."""
    args.work.mkdir(parents=True, exist_ok=True)
    texts = [validation_text(path) for path in args.texts]
    source = open_source(args.model)
    cache = reference_cache(source, args)
    for variant in args.variants:
        missing = [
            s
            for s in args.sizes
            if any((variant, s, t) not in {(r.variant, r.size, r.text) for r in rows} for _, t in texts)
        ]
        if not missing:
            continue
        paths, seconds = _make(variant, missing, source, args)
        for text in texts:
            name = text[1]
            present = {r.size for r in rows if (r.variant, r.text) == (variant, name)}
            new = {size: path for size, path in zip(missing, paths, strict=True) if size not in present}
            for size, found in zip(new, score([*new.values()], source, text, cache, args), strict=True):
                rows.add(Row(variant, size, name, found.file_bytes, found.ppl, found.kld, found.kld_se, seconds))
                log(f"{variant}, {size}, {name}: KL divergence {found.kld:.4f} +/- {found.kld_se:.4f}")
        for path in paths:
            path.unlink()


def _make(variant: str, sizes: Sequence[str], source: Source, args: argparse.Namespace) -> tuple[list[Path], float]:
    """The files of a variant, and the seconds of all together."""
    if variant != PRESETS:
        return export_sizes(args.model, sizes, args.work, flags_of(variant, args.calibration_tokens))
    start = time.monotonic()
    return list(make_presets(source, args.model, sizes, args)), time.monotonic() - start


def render(rows: Sequence[Row]) -> str:
    """A line for each variant."""
    found = {(row.variant, row.size, row.text): row for row in rows}
    variants = list(dict.fromkeys(row.variant for row in rows))
    cases = list(dict.fromkeys((row.size, row.text) for row in rows))
    lines = []
    for variant in variants:
        cells, ratios = [], []
        for size, text in cases:
            row, plain = found.get((variant, size, text)), found.get((PLAIN, size, text))
            cells.append("" if row is None else f"{row.kld:.4f}")
            if row is not None and plain is not None:
                ratios.append(row.kld / plain.kld)
        seconds = next(row.seconds for row in rows if row.variant == variant)
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
        lines.append((variant, *cells, f"{seconds:.0f}", f"{mean:.3f}"))
    head = ("flags", *(f"{size}, {text}" for size, text in cases), "seconds, all sizes", "over plain")
    return table(head, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    names = ("--calibration-tokens", "--context", "--chunks", "--threads")
    parser = command_line(__doc__, "model", "--out", "--work", *names, chunks=24)
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="held-out texts")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="flags to try, each in quotes")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="presets whose sizes the files get")
    args = parser.parse_args(arguments)

    def compare() -> None:
        rows = Records(args.out.with_suffix(".json"), Row)
        bench(args, rows)
        write_markdown(args.out, render([*rows]) + "\n")

    return exit_code(compare)


if __name__ == "__main__":
    raise SystemExit(main())
