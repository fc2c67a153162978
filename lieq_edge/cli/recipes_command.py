"""``recipes``: the installed settings, and what they are for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import lieq_edge as api

from ..system.progress import set_quiet
from .flags import DebugFlag, JsonFlag, QuietFlag
from .printing import Printer
from .report import print_json

app = typer.Typer(help="Show the installed recipes: settings for common devices and models.")


@app.command("list")
def list_names(json_output: JsonFlag = False, quiet: QuietFlag = False, debug: DebugFlag = False) -> None:
    """List the recipes with their name, budget and purpose."""
    set_quiet(quiet)
    recipes = api.list_recipes()
    if json_output:
        print_json({"recipes": [_document(recipe) for recipe in recipes]})
        return
    rows = [[recipe.name, _size(recipe), recipe.description] for recipe in recipes]
    printer = Printer()
    printer.table("Recipes", [("name", False), ("budget or device", True), ("use", False)], rows)
    printer.line("Take one with lieq-edge export MODEL --recipe NAME --out FILE; flags win over it.")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of an installed recipe, or path to a file.")],
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Show a recipe: its purpose, notes, settings and file."""
    set_quiet(quiet)
    recipe = api.read_recipe(name)
    if json_output:
        print_json(_document(recipe))
        return
    printer = Printer()
    printer.line(f"{recipe.name}: {recipe.description}")
    if recipe.notes:
        printer.line("")
        printer.line(recipe.notes)
    printer.line("")
    for setting, value in recipe.settings.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        printer.line(f"  {setting}: {text}")
    printer.line("")
    printer.line(f"File: {recipe.path}")


def _size(recipe: api.Recipe) -> str:
    """Its budget, or the device that leaves one."""
    return str(recipe.settings.get("budget") or recipe.settings.get("device") or "-")


def _document(recipe: api.Recipe) -> dict[str, Any]:
    document: dict[str, Any] = api.to_json(recipe)
    return document
