"""Recipes: files with settings of an export. Some are installed with the package and have a name."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .settings import Settings
from .system.files import user_path
from .system.progress import log
from .system.yaml_file import read_yaml

_NOTES = ("description", "notes")
_NULLS = ("", "~", "null", "Null", "NULL")
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: name of an installed recipe, or the path that the user gave.
        path: its file.
        description: one sentence about its use.
        notes: what to know about it; may be empty.
        settings: the settings that it gives, by field name of ``Settings``.
    """

    name: str
    path: Path
    description: str
    notes: str
    settings: dict[str, Any]

    @property
    def introduction(self) -> str:
        """A line that says which recipe is used, and its notes."""
        return " ".join(f"Recipe {self.name}: {self.description} {self.notes}".split())


def recipe_folder() -> Path:
    """The folder of the installed recipes: within the package, or beside it where the package runs from a checkout."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the installed recipes."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def list_recipes() -> list[Recipe]:
    """The installed recipes, by name.

    Raises:
        InputError: one of them was damaged.
    """
    return [read_recipe(name) for name in recipe_names()]


def load_recipe(recipe: str | Path) -> dict[str, Any]:
    """The settings of a recipe, by field name of ``Settings``; see ``read_recipe``."""
    return read_recipe(recipe).settings


def read_recipe(recipe: str | Path) -> Recipe:
    """Read a recipe: a YAML file with ``description``, ``notes`` and any settings of an export.

    Args:
        recipe: name of an installed recipe, or path of a file. An installed one is taken where there is a file of the
            same name, too, which a note says.

    Raises:
        InputError: there is none of that name, the file is missing, is not YAML, or holds an unknown or ill-typed
            setting.
    """
    name, path = _find(recipe)
    document = read_yaml(path, "recipe").values
    description = document.get("description")
    if not isinstance(description, str):
        raise InputError(f"The recipe {path} has no description; begin it with `description: ...`.")
    notes = document.get("notes") or ""
    if not isinstance(notes, str):
        raise InputError(f"The notes of the recipe {path} are not a text; write them as `notes: ...`.")
    values = {name: value for name, value in document.items() if name not in _NOTES and value not in _NULLS}
    try:
        checked = Settings(**{"budget": "2", **values})
    except InputError as error:
        raise InputError(f"The recipe {path} has a wrong setting: {error}") from error
    settings = {name: getattr(checked, name) for name in values}
    return Recipe(name, path, " ".join(description.split()), " ".join(notes.split()), settings)


def _find(recipe: str | Path) -> tuple[str, Path]:
    """Name and file of a recipe; what is neither a known name nor a file looks like one of both."""
    text = str(recipe)
    path = user_path(text)
    exists = os.path.lexists(path)  # where a path has no meaning, it is False
    is_name = path.name == text and path.suffix.lower() not in _SUFFIXES
    if is_name and text in recipe_names():
        if exists:
            log(f"Note: {text} is the installed recipe; for the file of that name give {Path.cwd() / path}.")
        return text, recipe_folder() / f"{text}.yaml"
    if is_name and not exists:
        raise _unknown(text)
    return text, path


def _unknown(name: str) -> InputError:
    names = recipe_names()
    close = difflib.get_close_matches(name.lower(), names, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return InputError(
        f"There is no recipe {name!r}, and no file of that name.{hint} Installed are {', '.join(names)}; "
        "or give the path of a file."
    )
