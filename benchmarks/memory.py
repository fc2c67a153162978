"""Predicted memory of GGUF files in llama.cpp on this machine, beside the resident size of the process that runs them.

    python -m benchmarks.memory FILE.gguf ... --out OUT

Each file is loaded in the three ways that `lieq-edge fit` knows, with a prompt that fills the context. The measured
size is that by which the process grows, mapped pages of the file included. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import (
    Records,
    command_line,
    describe_machine,
    exit_code,
    machine_line,
    number,
    table,
    write_markdown,
)
from benchmarks.internals import (
    LOADINGS,
    measure_memory,
    own_instructions,
    read_header,
    read_work,
    run_memory,
    simulate_contexts,
    weight_memory,
)


@dataclass(frozen=True)
class Row:
    """A file in memory.

    Attributes:
        file: name of the file.
        context: tokens of the context, all of which are used.
        way: way to load the file, as ``lieq_edge.device.memory`` names it.
        predicted: predicted bytes.
        resident: measured bytes.
    """

    file: str
    context: int
    way: str
    predicted: int
    resident: int


def measure(path: Path, contexts: Sequence[int], threads: int | None) -> list[Row]:
    """Rows of one file."""
    header = read_header(path)
    tokens, merges = (len(header.get(f"tokenizer.ggml.{name}") or ()) for name in ("tokens", "merges"))
    weights = weight_memory(*read_work(path), own_instructions())
    rows = []
    for made in simulate_contexts(path, [(context, "f16") for context in contexts]):
        for way in LOADINGS:
            real = measure_memory(path, made.tokens, mapped=way != "read", repacked=way != "plain", threads=threads)
            predicted = weights.of(way) + made.total + run_memory(tokens, merges)
            rows.append(Row(path.name, made.tokens, way, predicted, real.resident))
    return rows


def report(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("file", "context", "loaded", "predicted, MB", "resident, MB", "ratio")
    cells = [
        [
            row.file,
            str(row.context),
            row.way,
            number(row.predicted / 1e6, 1),
            number(row.resident / 1e6, 1),
            number(row.predicted / row.resident, 3),
        ]
        for row in rows
    ]
    return f"{machine_line(describe_machine())}\n\n{table(head, cells)}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = command_line(__doc__, "--out", "--threads")
    parser.add_argument("files", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192], help="tokens of the contexts")
    args = parser.parse_args(arguments)

    def work() -> None:
        records = Records(args.out.with_suffix(".json"), Row)
        done = {row.file for row in records}
        for path in args.files:
            if path.name not in done:
                records.add(*measure(path, args.contexts, args.threads))
        write_markdown(args.out, report(list(records)))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
