"""``sweep``: many files of several models, on this machine or on a cluster."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lieq_edge as api

from ..system import interrupt
from ..system.progress import set_quiet
from .flags import FIRST, MACHINE, DebugFlag, ForceFlag, JsonFlag, QuietFlag
from .printing import Printer
from .report import number, print_json
from .sweep_board import Board

if TYPE_CHECKING:
    from ..sweep.run import SweepResult


def sweep(
    file: Annotated[
        Path, typer.Argument(help="YAML file with models, budgets, metrics, efforts, and settings for all.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", rich_help_panel=FIRST, help="Folder for the files; default: the name of the YAML file."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(rich_help_panel=MACHINE, help="A Dask cluster's scheduler, e.g. tcp://host:8786."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=MACHINE, help="Number of processes on this machine; default 1, with all cores."
        ),
    ] = None,
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Make and score files for several models, budgets, metrics and efforts, in one table."""
    set_quiet(quiet)
    with Board(quiet=quiet) as board:
        interrupt.set_last_words(lambda: _last_words(board))
        done = api.run_sweep(file, out, scheduler=scheduler, workers=workers, force=force, progress=board.show)
    interrupt.set_last_words(None)
    if json_output:
        print_json(done)
    else:
        _show(done)
    if done.failed:
        raise api.GateError(f"{len(done.failed)} of {len(done.rows)} files could not be made; {done.table} says why.")


def _show(done: SweepResult) -> None:
    columns = ("model", "budget", "metric", "effort", "MB", "bits a weight", "KL divergence", "PPL", "seconds", "host")
    rows = []
    for row in done.rows:
        size = "-" if row.bytes is None else f"{row.bytes / 1e6:.1f}"
        numbers = [size, *map(number, (row.bpw, row.kld, row.ppl, row.seconds))]
        rows.append([row.model, row.budget, row.metric or "-", row.effort, *numbers, row.host or "-"])
    printer = Printer()
    printer.table("Sweep", [(name, 3 < i < 9) for i, name in enumerate(columns)], rows)
    for row in done.failed:
        printer.line(f"{row.label}: {row.error}")
    printer.line(f"Table: {done.table}")
    for page in done.pages:
        printer.line(f"Page: {page}")


def _last_words(board: Board) -> str:
    """What is finished of an interrupted sweep, and how to go on."""
    board.close()
    finished = f"{board.ready} of {board.files} files are finished" if board.files else "No file was begun"
    return f"{finished}. The same command goes on from there:\n  {shlex.join(['lieq-edge', *sys.argv[1:]])}"
