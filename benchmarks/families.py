"""A table for each model: llama.cpp's presets, our files of the same sizes, on two texts, with the speed of decoding.

    python -m benchmarks.families --work work --out families --text mine.txt
    python -m benchmarks.families demo models/my-model --work work --out families --sizes Q3_K_M,Q4_K_M

Without names of models, families of small ones are taken from the hub; gated ones need a login there. Presets get an
imatrix of the text and tokens that our exports calibrate on; ours is the plain command (``-b Q2_K -b Q3_K_S ...``). All
files are scored against the model on the built-in text, and on ``--text``. Written are OUT.md and OUT.json, which is
continued after an interruption: rows that it has are not made again, and a stopped export goes on. A model that cannot
be fetched or run is named at the end, after all others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.harness import Records, command_line, exit_code, geometric_mean, number, table, write_markdown
from benchmarks.internals import Source, log, validation_text
from benchmarks.sized import export_sizes, make_presets, reference_cache, score
from benchmarks.turns import Failed
from lieq_edge import InputError, measure_speed, open_source

MODELS = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "google/gemma-3-270m-it",
    "HuggingFaceTB/SmolLM2-360M-Instruct",
    "Qwen/Qwen3-0.6B",
    "google/gemma-3-1b-it",
    "meta-llama/Llama-3.2-1B-Instruct",
    "Qwen/Qwen3-1.7B",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "HuggingFaceTB/SmolLM3-3B",
    "meta-llama/Llama-3.2-3B-Instruct",
    "Qwen/Qwen3-4B",
    "google/gemma-3-4b-it",
)
"""Models that are taken where none are named, the smallest first."""

SIZES = "Q2_K,Q3_K_S,Q3_K_M,Q4_K_S,Q4_K_M"
PRESET, OURS = "llama.cpp", "lieq-edge"


@dataclass(frozen=True)
class Row:
    """A file on a text.

    Attributes:
        model: the model.
        maker: ``PRESET`` or ``OURS``.
        size: preset, whose size is our budget.
        text: name of the text.
        decode: tokens a second, one after the other.
    """

    model: str
    maker: str
    size: str
    text: str
    file_bytes: int
    ppl: float
    kld: float
    kld_se: float
    top1: float
    decode: float


class Bench:
    """One model: makes files, scores them on all texts, and keeps their rows."""

    def __init__(self, model: str, rows: Records[Row], args: argparse.Namespace) -> None:
        """Open the model.

        Args:
            model: hub id, directory, .gguf file, or demo.
            rows: rows so far.
            args: options of the command line.
        """
        self.model = model
        self.rows = rows
        self.args = args
        self.sizes: list[str] = args.sizes.split(",")
        self.texts = [validation_text(path) for path in dict.fromkeys((None, args.text))]
        self.flags = () if args.threads is None else ("--threads", str(args.threads))

    def missing(self, maker: str) -> list[str]:
        """Sizes whose rows are not all there."""
        present = {(row.size, row.text) for row in self.rows if (row.model, row.maker) == (self.model, maker)}
        return [size for size in self.sizes if any((size, name) not in present for _, name in self.texts)]

    @cached_property
    def source(self) -> Source:
        return open_source(self.model)

    def run(self) -> None:
        """Make and score what is missing."""
        if presets := self.missing(PRESET):
            for name, made in zip(presets, make_presets(self.source, self.model, presets, self.args), strict=True):
                with self._file(made) as path:
                    self._score(PRESET, name, path)
        if sizes := self.missing(OURS):
            _ = self.source  # fetched before the export, which does not look for the network
            paths, _ = export_sizes(self.model, sizes, self.args.work, self.flags)
            for name, made in zip(sizes, paths, strict=True):
                with self._file(made) as path:
                    self._score(OURS, name, path)

    @contextmanager
    def _file(self, path: Path) -> Iterator[Path]:
        yield path
        path.unlink()

    def _score(self, maker: str, size: str, path: Path) -> None:
        cache = reference_cache(self.source, self.args)
        decode = measure_speed(path, prompt=64, threads=self.args.threads).decode
        for text in self.texts:
            if any((r.model, r.maker, r.size, r.text) == (self.model, maker, size, text[1]) for r in self.rows):
                continue
            (found,) = score([path], self.source, text, cache, self.args)
            row = Row(
                self.model,
                maker,
                size,
                text[1],
                found.file_bytes,
                found.ppl,
                found.kld,
                found.kld_se,
                found.top1,
                decode,
            )
            self.rows.add(row)
            log(f"{self.model}, {maker} at {size}, {text[1]}: KL divergence {row.kld:.4f} +/- {row.kld_se:.4f}")


def render(rows: Sequence[Row]) -> str:
    """A section for each model."""
    sections = []
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        texts = list(dict.fromkeys(row.text for row in own))
        sections.append(f"## {model}\n\n" + "\n\n".join(_section(own, text) for text in texts))
    return "\n\n".join(sections)


def _section(rows: Sequence[Row], text: str) -> str:
    """The table of a model on a text, and the mean ratio."""
    found = {(row.maker, row.size): row for row in rows if row.text == text}
    ratios, cells = [], []
    for size in dict.fromkeys(size for _, size in found):
        theirs, ours = found.get((PRESET, size)), found.get((OURS, size))
        ratio = ours.kld / theirs.kld if ours is not None and theirs is not None and theirs.kld else None
        if ratio is not None:
            ratios.append(ratio)
        both = (theirs, ours)
        cells.append(
            (
                size,
                _pair(f"{row.file_bytes / 1e6:.1f}" for row in both if row is not None),
                *(f"{row.kld:.4f} ± {row.kld_se:.4f}" if row is not None else "" for row in both),
                number(ratio, 2),
                _pair(f"{row.ppl:.2f}" for row in both if row is not None),
                _pair(f"{100 * row.top1:.1f} %" for row in both if row is not None),
                _pair(f"{row.decode:.1f}" for row in both if row is not None),
            )
        )
    head = ("size", "MB", f"KLD {PRESET}", f"KLD {OURS}", "ratio", "PPL", "same top token", "tokens/s")
    mean = f"\n\nGeometric mean of the ratios: {geometric_mean(ratios):.3f}" if ratios else ""
    return f"Text: {text} (pairs: {PRESET} / {OURS})\n\n{table(head, cells)}{mean}"


def _pair(values: Iterator[str]) -> str:
    return " / ".join(values)


def bench(args: argparse.Namespace, rows: Records[Row]) -> int:
    """All models one after the other; the exit code is 1 if one of them failed."""
    args.work.mkdir(parents=True, exist_ok=True)
    failed = []
    for model in args.models or MODELS:
        try:
            Bench(model, rows, args).run()
        except (InputError, Failed) as error:
            failed.append(f"{model}: {error}")
            log(f"Error: {failed[-1]}")
        if [*rows]:
            args.out.with_suffix(".md").write_text(render([*rows]) + "\n", encoding="utf-8")
    if [*rows]:
        write_markdown(args.out, render([*rows]) + "\n")
    for line in failed:
        print(f"Error: {line}", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    names = ("--text", "--out", "--work", "--context", "--chunks", "--threads")
    parser = command_line(__doc__, *names, chunks=32)
    parser.add_argument("models", nargs="*", help="hub ids, directories, .gguf files, or demo; the families by default")
    parser.add_argument("--sizes", default=SIZES, help="presets to make, whose sizes ours must not exceed")
    args = parser.parse_args(arguments)
    return exit_code(lambda: bench(args, Records(args.out.with_suffix(".json"), Row)))


if __name__ == "__main__":
    raise SystemExit(main())
