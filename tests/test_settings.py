"""Recipes: the shipped ones are valid, flags win over them, damaged ones are told in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from lieq_edge.allocate.budget import parse_budget
from lieq_edge.errors import InputError
from lieq_edge.settings import load_recipe, merge

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 10


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_makes_settings(path: Path) -> None:
    settings = merge(load_recipe(path), {})
    parse_budget(settings.budget)
    assert path.name in path.read_text()  # the command in its first line names the file itself


def test_flags_win_over_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\nbudget: 2.5\nmetric: first\n")
    settings = merge(load_recipe(path), {"metric": "last"})
    assert (settings.budget, settings.metric) == ("2.5", "last")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget: 3\n", "description"),
        ("description: x\nbuget: 3\n", "buget"),
        ("description: x\nmetric: magic\n", "metric"),
        ("description: x\nlevels: many\n", "levels"),
        ("- a list\n", "settings"),
        ("a: [", "not YAML"),
    ],
)
def test_a_damaged_recipe_is_told_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        merge(load_recipe(path), {"budget": "3"})


def test_a_missing_recipe_and_a_missing_budget_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="--budget"):
        merge({}, {})


def test_a_wrong_value_names_its_flag() -> None:
    with pytest.raises(InputError, match="--baseline"):
        merge({}, {"budget": "3", "baseline": "magic"})
