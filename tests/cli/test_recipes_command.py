"""``lieq-edge recipes``, and what a command says about the recipe that it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from records import make_diagnostics
from runner import assert_refused, run

from lieq_edge.system.jsonio import save_json


def test_they_are_listed() -> None:
    listed = json.loads(run("recipes", "list", "--json").stdout)["recipes"]
    names = [recipe["name"] for recipe in listed]
    assert {"paper", "raspberry-pi-5-4gb"} <= set(names)
    text = run("recipes", "list").stdout
    for recipe in listed:
        assert recipe["name"] in text
        assert (recipe["settings"].get("budget") or recipe["settings"]["device"]) in text


def test_one_is_shown() -> None:
    shown = json.loads(run("recipes", "show", "paper", "--json").stdout)
    assert shown["settings"]["levels"] == [2, 4]
    text = run("recipes", "show", "paper").stdout
    assert "levels: 2,4" in text
    assert " ".join(shown["notes"].split()[:6]) in text
    assert Path(shown["path"]).is_file()


def test_an_unknown_one_is_refused() -> None:
    assert_refused(run("recipes", "show", "papr"), "Did you mean paper", "smollm2")
    assert_refused(run("recipes", "show", "none.yaml"), "none.yaml")


def test_a_command_says_which_recipe_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_json(make_diagnostics([0.1, 0.4, 0.2]), tmp_path / "saved.json")
    done = run("plan", "saved.json", "--recipe", "llama-3.2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Recipe llama-3.2: Llama-3.2 1B and 3B.") == 1
    assert "rope scaling" in done.stderr  # its notes
    quiet = run("plan", "saved.json", "--recipe", "llama-3.2", "--quiet")
    assert quiet.stderr == ""
    assert_refused(run("plan", "saved.json", "--recipe", "lama-3.2"), "Did you mean llama-3.2")
