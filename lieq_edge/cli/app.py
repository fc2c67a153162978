"""The program's commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import __version__
from .analyze_command import analyze
from .bench_command import bench
from .cache_command import app as cache
from .card_command import card
from .chat_command import chat
from .export_command import export
from .file_commands import inspect, validate
from .fit_command import fit
from .plan_command import plan
from .recipes_command import app as recipes
from .sweep_command import sweep

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Make a small mixed-precision GGUF file of a language model: bits go to the blocks that matter.",
)
for command in (export, sweep, fit, analyze, plan, validate, inspect, chat, bench, card):
    app.command()(command)
app.add_typer(cache, name="cache")
app.add_typer(recipes, name="recipes")


def _version(value: bool) -> None:
    if value:
        print(f"lieq-edge {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Bits go to the blocks that matter."""
