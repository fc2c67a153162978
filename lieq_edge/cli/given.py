"""Explicit flags, as settings of the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

import lieq_edge as api

from ..system.files import user_path
from ..system.progress import log

_REFUSALS = {"no_validate": "validation", "no_reference": "reference", "no_parity": "parity", "no_cache": "cache"}


def given_flags(context: typer.Context) -> dict[str, Any]:
    """The settings among the explicit flags; for others a recipe or the default counts.

    The signatures of the commands serve typer only; values of settings are taken from here.
    """
    settings: dict[str, Any] = {}
    for name, value in context.params.items():
        if not is_given(context, name):
            continue
        if name in _REFUSALS:
            settings[_REFUSALS[name]] = not value
        elif name == "context_tokens":
            settings["context"] = value
        elif name in api.Settings.model_fields:
            settings[name] = value
    return settings


def is_given(context: typer.Context, name: str) -> bool:
    """True if the user gave the parameter ``name`` of the command."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def given_settings(context: typer.Context, recipe: Path | None = None, budget: str | None = None) -> api.Settings:
    """Settings from the flags and a recipe; flags win.

    Args:
        context: context of the command.
        recipe: recipe that the user names.
        budget: the one of several budgets that these settings are for.
    """
    flags = given_flags(context)
    if isinstance(flags.get("budget"), list):
        del flags["budget"]
    if budget is not None:
        flags["budget"] = budget
    return api.merge(api.load_recipe(recipe) if recipe else {}, flags)


def is_saved(model: str) -> bool:
    """True if a model is a file of measurements instead: by the end of its name, or by its first character."""
    if model.endswith(".json"):
        return True
    path = user_path(model)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"{")


def load_saved(path: Path) -> api.Diagnostics:
    """Measurements that ``analyze --out`` saved."""
    return api.load_json(api.Diagnostics, path, "saved measurements")


def introduce(recipe: Path | None) -> None:
    """Report which recipe is used, with its notes; once for a command."""
    if recipe is not None:
        log(api.read_recipe(recipe).introduction)
