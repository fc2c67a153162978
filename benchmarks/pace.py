"""Predicted speed of GGUF files by the profile of this machine, beside the measured one.

    python -m benchmarks.pace FILE.gguf ... --device profile.json --out OUT

The profile is that of `lieq-edge bench --types --out profile.json` on this machine. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lieq_edge
from benchmarks.harness import (
    Records,
    command_line,
    describe_machine,
    exit_code,
    geometric_mean,
    machine_line,
    number,
    table,
    write_markdown,
)
from benchmarks.internals import predict_pace, read_work


@dataclass(frozen=True)
class Row:
    """Speeds of a file, in tokens a second.

    Attributes:
        file: name of the file.
        predicted_prefill: predicted speed of a prompt.
        prefill: measured speed of a prompt.
        predicted_decode: predicted speed of an answer.
        decode: measured speed of an answer.
    """

    file: str
    predicted_prefill: float
    prefill: float
    predicted_decode: float
    decode: float


def measure(path: Path, profile: lieq_edge.Profile, repeats: int) -> Row:
    """The row of one file, with the threads of the profile."""
    predicted = predict_pace(profile, *read_work(path))
    real = lieq_edge.measure_speed(path, repeats=repeats, threads=profile.threads)
    return Row(path.name, predicted.prefill, real.prefill, predicted.decode, real.decode)


def report(rows: Sequence[Row], profile: lieq_edge.Profile) -> str:
    """The rows as a Markdown table."""
    head = ("file", "prompt: predicted", "measured", "ratio", "answer: predicted", "measured", "ratio")
    cells = [
        [
            row.file,
            number(row.predicted_prefill, 1),
            number(row.prefill, 1),
            number(row.predicted_prefill / row.prefill, 2),
            number(row.predicted_decode, 1),
            number(row.decode, 1),
            number(row.predicted_decode / row.decode, 2),
        ]
        for row in rows
    ]
    means = [geometric_mean(row.predicted_prefill / row.prefill for row in rows)]
    means.append(geometric_mean(row.predicted_decode / row.decode for row in rows))
    machine = machine_line(describe_machine())
    return (
        f"{machine} {profile.threads} threads. {profile.conditions}\n\n{table(head, cells)}\n\n"
        f"Geometric mean of the ratios: {means[0]:.2f} for prompts, {means[1]:.2f} for answers.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = command_line(__doc__, "--out", "--repeats")
    parser.add_argument("files", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--device", required=True, help="profile of this machine")
    args = parser.parse_args(arguments)

    def work() -> None:
        profile = lieq_edge.load_profile(args.device)
        records = Records(args.out.with_suffix(".json"), Row)
        done = {row.file for row in records}
        for path in args.files:
            if path.name not in done:
                records.add(measure(path, profile, args.repeats))
        write_markdown(args.out, report(list(records), profile))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
