"""``validate`` and ``inspect``: look at written files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system import interrupt
from ..system.progress import set_quiet
from . import report
from .flags import (
    TASKS,
    CacheDirFlag,
    ContextFlag,
    DebugFlag,
    JsonFlag,
    NoCacheFlag,
    ParseSpecialFlag,
    QuietFlag,
    TextFlag,
    ThreadsFlag,
)
from .given import is_given
from .resuming import last_words

# Flags that are about the text, and flags that are about tasks.
_OF_TEXT = ("text", "context", "chunks", "parse_special", "speed", "max_ppl_ratio")
_OF_TASKS = ("task_limit", "allow_task_code", "cache_dir", "no_cache")


def validate(
    context_: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="GGUF files to score.", metavar="FILE...")],
    reference: Annotated[str | None, typer.Option(help="GGUF file or model to compare with.")] = None,
    text: TextFlag = None,
    context: ContextFlag = 512,
    chunks: Annotated[
        int | None, typer.Option(min=1, help="Number of windows to score; default: the whole text.")
    ] = None,
    parse_special: ParseSpecialFlag = False,
    speed: Annotated[bool, typer.Option("--speed", help="Also measure tokens per second.")] = False,
    threads: ThreadsFlag = None,
    max_ppl_ratio: Annotated[
        float | None, typer.Option(help="Exit with code 1 if PPL exceeds the reference's by more than this factor.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=TASKS,
            help="Score lm-evaluation-harness tasks instead: comma-separated names (arc_easy,piqa) or a YAML file.",
        ),
    ] = None,
    task_limit: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=TASKS, help="Maximum number of items per task; default: all.")
    ] = None,
    allow_task_code: Annotated[
        bool,
        typer.Option("--allow-task-code", rich_help_panel=TASKS, help="Run Python code named in a YAML file."),
    ] = False,
    cache_dir: CacheDirFlag = None,
    no_cache: NoCacheFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Measure perplexity as llama.cpp does and, with a reference, KL divergence and top-1 agreement; or score tasks.

    Several files are compared in one table; the reference runs once for all of them.
    """
    set_quiet(quiet)
    _check_kind(context_, tasks)
    if tasks is not None:
        interrupt.set_last_words(None if no_cache else lambda: last_words("items"))
        scores = api.score_tasks(
            files,
            reference,
            tasks=tasks.split(","),
            limit=task_limit,
            threads=threads,
            cache=not no_cache,
            cache_dir=cache_dir,
            allow_code=allow_task_code,
        )
        interrupt.set_last_words(None)
        report.show_tasks(scores, as_json=json_output)
        return
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


def _check_kind(context: typer.Context, tasks: str | None) -> None:
    """Refuse flags that are about the other kind of score."""
    for name in _OF_TEXT if tasks is not None else _OF_TASKS:
        if is_given(context, name):
            flag = f"--{name.replace('_', '-')}"
            raise api.InputError(
                f"{flag} has no meaning with --tasks; leave it out."
                if tasks is not None
                else f"{flag} has no meaning without --tasks; name tasks, or leave it out."
            )


def inspect(
    file: Annotated[Path, typer.Argument(help="GGUF file to inspect.")],
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Show the types, sizes and bits of a GGUF file, and how lieq-edge made it."""
    set_quiet(quiet)
    report.show_inspection(api.inspect_file(file), as_json=json_output)
