"""Recipes: the shipped ones are valid, flags win over them, damaged ones are told in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lieq_edge.allocation.budget import parse_budget
from lieq_edge.errors import InputError
from lieq_edge.settings import Settings, load_recipe, merge

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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", "none"),
        ("budget", None),
        ("metric", "evil"),
        ("rounding", "evil"),
        ("granularity", "evil"),
        ("projections", "evil"),
        ("baseline", "magic"),
        ("levels", "many"),
        ("levels", (4, 2)),
        ("levels", (7,)),
        ("seed", -1),
        ("seed", 2**32),
        ("threads", 0),
        ("threads", -1),
        ("threads", 100_000),
        ("probe_tokens", 1),
        ("calibration_tokens", 0),
        ("context", 0),
        ("chunks", 0),
        ("max_ppl_ratio", float("nan")),
        ("max_ppl_ratio", -1.0),
        ("max_ppl_ratio", float("inf")),
        ("cache_limit", "much"),
        ("strict_types", "perhaps"),
    ],
)
def test_a_wrong_value_names_its_flag_from_python_and_from_a_recipe(tmp_path: Path, name: str, value: object) -> None:
    flag = "--" + name.replace("_", "-")
    words = "budget" if name == "budget" else "cache limit" if name == "cache_limit" else flag
    with pytest.raises(InputError, match=words):
        Settings(**{"budget": "3", name: value})
    if value is None:
        return
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"description": "x", name: list(value) if isinstance(value, tuple) else value}))
    with pytest.raises(InputError, match=words):
        load_recipe(path)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(InputError, match="magic"):
        Settings(budget="3", magic=1)


def test_paths_may_be_text(tmp_path: Path) -> None:
    settings = Settings(budget=2.5, text=str(tmp_path), cache_dir="~/x", levels="2,4", output_type="q8_0")
    assert settings.text == tmp_path
    assert settings.cache_dir == Path("~/x").expanduser()
    assert (settings.budget, settings.levels, settings.output_type) == ("2.5", (2, 4), "Q8_0")


def test_what_the_user_gave_is_known() -> None:
    assert Settings(budget="3", calibration="self").gives("calibration")
    assert not Settings(budget="3").gives("calibration")


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


def test_a_recipe_gives_way_to_the_metric_of_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text("description: x\nbudget: 2.1\nlevels: [2, 4]\n")
    settings = merge(load_recipe(path), {"metric": "loss"})
    assert not settings.gives("levels")
