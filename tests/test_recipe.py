"""Recipes: the installed ones are valid, flags win over them, damaged ones are told in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from lieq_edge.allocation.budget import parse_budget
from lieq_edge.errors import InputError
from lieq_edge.pipeline.choices import check_combination
from lieq_edge.recipe import list_recipes, load_recipe, read_recipe
from lieq_edge.settings import merge
from lieq_edge.system.progress import Event, reporting_to

RECIPES = sorted(path.stem for path in (Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 10
    assert [recipe.name for recipe in list_recipes()] == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_an_installed_recipe_makes_settings(name: str) -> None:
    recipe = read_recipe(name)
    settings = merge(recipe.settings, {})
    budget = parse_budget(settings.budget)
    assert f"--recipe {name} " in recipe.path.read_text()  # the command in its first line
    assert recipe.description in recipe.introduction
    assert recipe.notes in recipe.introduction
    # A size is met best by the types with the least loss, among which levels do not choose.
    assert budget.kind == "nominal" or "levels" not in recipe.settings
    check_combination(settings)


def test_a_name_is_an_installed_recipe_and_a_path_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").write_text("description: mine\nbudget: 3.5\n")
    (tmp_path / "own").write_text("description: own\nbudget: 3.25\n")
    notes: list[Event] = []
    with reporting_to(notes.append):
        assert read_recipe("paper").settings["budget"] == "2.05"
    assert [str(tmp_path / "paper") in note.message for note in notes] == [True]
    assert read_recipe(tmp_path / "paper").settings["budget"] == "3.5"
    assert read_recipe("own").settings["budget"] == "3.25"
    assert read_recipe("own").name == "own"


@pytest.mark.parametrize("name", ["raspbery-pi-5-4gb", "RASPBERRY-PI-5-4GB"])
def test_an_unknown_name_lists_the_known_ones_and_close_ones(name: str) -> None:
    with pytest.raises(InputError) as refused:
        read_recipe(name)
    message = str(refused.value)
    assert "Did you mean raspberry-pi-5-4gb" in message
    assert all(known in message for known in RECIPES)
    with pytest.raises(InputError, match="no recipe 'zzz'") as refused:
        read_recipe("zzz")
    assert "Did you mean" not in str(refused.value)


def test_a_name_that_no_file_can_have_is_one_sentence() -> None:
    for name in ("n" * 5000, "a\0b", ""):
        with pytest.raises(InputError):
            read_recipe(name)


def test_notes_must_be_a_text(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("description: x\nnotes: [a]\nbudget: 3\n")
    with pytest.raises(InputError, match="notes"):
        read_recipe(tmp_path / "bad.yaml")


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


@pytest.mark.parametrize(
    "text",
    [
        "description: x\nbudget: 3\n" + "a: " + "[" * 3000,
        "description: x\nbudget: !!int abc\n",
        "description: x\nseed: !!python/object/apply:os.system [ls]\n",
        "description: x\nbudget: 3\nbudget: 4\n",
        "description: x\n" + "".join(f"a{i}: 1\n" for i in range(100_000)),
        "&a [*a]\n",
        "1: 2\n",
        "",
    ],
)
def test_a_hostile_recipe_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        load_recipe(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_portable_types_are_for_every_metric(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text("description: x\nbudget: 2.1\nlevels: [2, 4]\n")
    settings = merge(load_recipe(path), {"types": "portable"})
    assert settings.gives("levels")
    assert settings.portable
    assert not merge(load_recipe(path), {"types": "all"}).gives("levels")
    path.write_text("description: x\nbudget: 90MB\ntypes: portable\ngranularity: block\n")
    settings = merge(load_recipe(path), {"metric": "geometry"})
    assert settings.portable
    assert not settings.gives("granularity")


def test_a_recipe_gives_way_to_the_metric_of_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text("description: x\nbudget: 2.1\nlevels: [2, 4]\n")
    settings = merge(load_recipe(path), {"metric": "loss"})
    assert not settings.gives("levels")


@pytest.mark.parametrize(
    ("recipe", "given", "left"),
    [
        ({"tune_steps": 20}, {"tune": 0}, {"tune": 0}),
        ({"tune": 10, "tune_tokens": 8192}, {"tune": 0}, {"tune": 0}),
        ({"tune": 0}, {"tune_steps": 20}, {"tune_steps": 20}),
        ({"tune": 30}, {"tune_steps": 20}, {"tune_steps": 20}),
        ({"tune_steps": 20, "tune_tokens": 8192}, {"tune": 5}, {"tune": 5, "tune_tokens": 8192}),
        ({"effort": "best", "tune_tokens": 8192}, {"effort": "quick"}, {"effort": "quick"}),
        ({"effort": "best", "tune_tokens": 8192}, {}, {"effort": "best", "tune_tokens": 8192}),
        ({}, {"tune_tokens": 8192}, {"tune_tokens": 8192}),
        ({}, {"tune": 5, "tune_steps": 20}, {"tune": 5, "tune_steps": 20}),
    ],
)
def test_flags_of_tuning_win_over_a_recipe(
    recipe: dict[str, object], given: dict[str, object], left: dict[str, object]
) -> None:
    settings = merge({"budget": "3bpw", **recipe}, given)
    names = ("effort", "tune", "tune_steps", "tune_tokens")
    assert {name: getattr(settings, name) for name in names if settings.gives(name)} == left
