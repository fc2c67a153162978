"""``validate`` and ``inspect``: look at written files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system.progress import set_quiet
from . import report
from .flags import ContextFlag, DebugFlag, JsonFlag, ParseSpecialFlag, QuietFlag, TextFlag, ThreadsFlag


def validate(
    files: Annotated[list[Path], typer.Argument(help="GGUF files to score.", metavar="FILE...")],
    reference: Annotated[str | None, typer.Option(help="GGUF file or model to compare with.")] = None,
    text: TextFlag = None,
    context: ContextFlag = 512,
    chunks: Annotated[int | None, typer.Option(min=1, help="Windows to score; default: all of the text.")] = None,
    parse_special: ParseSpecialFlag = False,
    speed: Annotated[bool, typer.Option("--speed", help="Measure tokens a second as well.")] = False,
    threads: ThreadsFlag = None,
    max_ppl_ratio: Annotated[
        float | None, typer.Option(help="Exit with 1 if PPL exceeds the reference's by more than this factor.")
    ] = None,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Perplexity by llama.cpp's protocol and, with a reference, KL divergence and top-1 agreement.

    Several files are compared in one table; the reference runs once for all of them.
    """
    set_quiet(quiet)
    if max_ppl_ratio is not None and not max_ppl_ratio > 0:  # so that NaN is refused too
        raise api.InputError(f"--max-ppl-ratio takes a number above 0, e.g. 1.1; got {max_ppl_ratio:g}.")
    if max_ppl_ratio is not None and reference is None:
        raise api.InputError("--max-ppl-ratio compares with a reference; pass --reference too.")
    rows = api.score_files(
        files,
        reference,
        text=text,
        context=context,
        chunks=chunks,
        parse_special=parse_special,
        speed=speed,
        threads=threads,
    )
    report.show_scores(rows, as_json=json_output)
    api.check_gates(rows, max_ppl_ratio)


def inspect(
    file: Annotated[Path, typer.Argument(help="GGUF file to look at.")],
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Types, sizes and bits of a GGUF file, and how lieq-edge made it."""
    set_quiet(quiet)
    report.show_inspection(api.inspect_file(file), as_json=json_output)
