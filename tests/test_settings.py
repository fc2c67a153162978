"""Settings: wrong values are told in a sentence that names the flag."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lieq_edge.errors import InputError
from lieq_edge.recipe import load_recipe
from lieq_edge.settings import Settings


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
        ("context_size", 0),
        ("kv", "q3_k"),
        ("min_tps", 0.0),
        ("min_tps", float("nan")),
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


def test_a_copy_with_other_values_is_checked() -> None:
    settings = Settings(budget="Q4_K_M", levels="2,4")
    copy = settings.model_copy(update={"budget": "90MB"})
    assert (copy.budget, copy.levels) == ("90MB", (2, 4))
    assert copy.model_fields_set == {"budget", "levels"}
    for name, value in (("budget", "some"), ("rounding", "magic"), ("budgets", "90MB")):
        with pytest.raises(InputError, match=name):
            settings.model_copy(update={name: value})
