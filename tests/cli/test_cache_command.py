"""``lieq-edge cache``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runner import assert_refused, run
from tiny import make_model

from lieq_edge.store import Entry, FolderCache


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Results of two models, one of them unused for 40 days, and an entry of none."""
    cache = FolderCache(tmp_path)
    old, new = cache.about(model="1").labelled("org/old"), cache.about(model="2").labelled("new \x1b[31m")
    old.put("importance", {"n": 1}, Entry({"a": np.zeros(1 << 20)}))
    old.put("importance", {"n": 2}, Entry({"a": np.zeros(1 << 10)}))
    month_ago = time.time() - 40 * 86400
    for stored in cache.store.contents():
        os.utime(stored.path, (month_ago, month_ago))
    new.put("importance", {"n": 1}, Entry({"a": np.zeros(10)}))
    stopped = new.run("rounding", {})
    stopped.save("block", {"a": np.zeros(20)})
    stopped.close(done=False)
    cache.put("parity", {}, Entry())
    return tmp_path


def listed(folder: Path) -> dict[str | None, int]:
    document = json.loads(run("cache", "list", "--cache-dir", folder, "--json").stdout)
    return {model["model"]: model["entries"] for model in document["models"]}


def test_models_are_named_with_ages_and_sizes(models: Path) -> None:
    assert listed(models) == {"org/old": 2, "new \x1b[31m": 2, None: 1}
    document = json.loads(run("cache", "list", "--cache-dir", models, "--json").stdout)
    assert document["models"][0]["model"] == "org/old"  # unused for longest
    assert 39 * 86400 < document["models"][0]["age_seconds"] < 41 * 86400
    assert {entry["kind"] for entry in document["entries"] if entry["model"] == "org/old"} == {"importance"}
    text = run("cache", "list", "--cache-dir", models).stdout
    lines = text.splitlines()
    assert lines[0] == "org/old: 8.4 MB, used 40 days ago"
    assert lines[1].split() == ["8.4", "MB", "importance", "2", "40", "days", "ago"]
    assert "(unknown): " in text
    assert "new  [31m: " in text
    assert "just now" in text
    assert "\x1b" not in text


def test_results_of_a_real_model_have_its_name(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", hidden=256, intermediate=256, blocks=2)
    cache = tmp_path / "cache"
    done = run("plan", model, "--budget", "3", "--probe-tokens", 64, "--cache-dir", cache)
    assert done.returncode == 0, done.stderr
    assert set(listed(cache)) == {str(model)}
    run("cache", "clear", model, "--cache-dir", cache)
    assert listed(cache) == {}


def test_one_model_is_cleared(models: Path) -> None:
    wrong = run("cache", "clear", "org/odl", "--cache-dir", models)
    assert_refused(wrong, "Nothing is stored of org/odl, only of (unknown), ", "org/old; did you mean org/old?")
    assert len(listed(models)) == 3
    cleared = json.loads(run("cache", "clear", "org/old", "--cache-dir", models, "--json").stdout)
    assert (cleared["model"], cleared["removed"]) == ("org/old", 2)
    assert listed(models) == {"new \x1b[31m": 2, None: 1}
    assert "Removed 2 entries of new" in run("cache", "clear", "new  [31m", "--cache-dir", models).stdout
    assert "Removed 1 entry" in run("cache", "clear", "(unknown)", "--cache-dir", models).stdout
    assert listed(models) == {}
    assert_refused(run("cache", "clear", "org/old", "--cache-dir", models), "Nothing is stored of org/old; ")


def test_what_is_old_is_cleared(models: Path) -> None:
    assert_refused(run("cache", "clear", "--older-than", "soon", "--cache-dir", models), "30d")
    assert "Removed 0 entries" in run("cache", "clear", "--older-than", "6w", "--cache-dir", models).stdout
    assert (
        "Removed 0 entries" in run("cache", "clear", "(unknown)", "--older-than", "30d", "--cache-dir", models).stdout
    )
    assert "Removed 2 entries" in run("cache", "clear", "--older-than", "30d", "--cache-dir", models).stdout
    assert listed(models) == {"new \x1b[31m": 2, None: 1}


def test_what_is_worked_on_is_not_cleared(models: Path) -> None:
    with FolderCache(models).about(model="2").labelled("new").run("rounding", {}) as at_work:
        assert at_work.has("block")
        run("cache", "clear", "new  [31m", "--cache-dir", models)
        assert at_work.has("block")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cache = FolderCache(tmp_path)
    cache.put("importance", {}, Entry({"a": np.zeros(10)}))
    stopped = cache.run("rounding", {})
    stopped.save("block", {"a": np.zeros(20)})
    stopped.close(done=False)
    return tmp_path


def test_it_lists_and_counts_and_clears(folder: Path) -> None:
    document = json.loads(run("cache", "list", "--cache-dir", folder, "--json").stdout)
    assert {(e["kind"], e["unfinished"]) for e in document["entries"]} == {("importance", False), ("rounding", True)}
    assert all(len(e["key"]) == 64 and e["bytes"] > 0 and e["used"] > 0 for e in document["entries"])
    text = run("cache", "list", "--cache-dir", folder).stdout
    assert "importance" in text
    assert "rounding (unfinished)" in text
    counted = json.loads(run("cache", "size", "--cache-dir", folder, "--json").stdout)
    assert counted["bytes"] == sum(e["bytes"] for e in document["entries"])
    assert "2 entries" in run("cache", "size", "--cache-dir", folder).stdout
    cleared = json.loads(run("cache", "clear", "--cache-dir", folder, "--json").stdout)
    assert (cleared["removed"], cleared["bytes"]) == (2, counted["bytes"])
    assert json.loads(run("cache", "size", "--cache-dir", folder, "--json").stdout)["bytes"] == 0
    assert "Removed 0" in run("cache", "clear", "--cache-dir", folder).stdout
    nothing = run("cache", "list", "--cache-dir", folder)
    assert (nothing.stdout, nothing.returncode) == ("", 0)
    assert "Nothing" in nothing.stderr


def test_a_folder_that_is_not_there_is_empty_and_a_file_is_refused(tmp_path: Path) -> None:
    assert run("cache", "size", "--cache-dir", tmp_path / "none").returncode == 0
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("x")
    assert_refused(run("cache", "list", "--cache-dir", tmp_path / "file"), "file")
    assert_refused(run("cache", "bogus"), "bogus")
    flags = ("--budget", "3", "--out", tmp_path / "o.gguf", "--cache-limit", "ten")
    assert_refused(run("export", tmp_path, *flags), "10GB")


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIEQ_CACHE_DIR", str(folder))
    assert json.loads(run("cache", "size", "--json").stdout)["folder"] == str(folder)


def test_it_loads_no_torch(folder: Path) -> None:
    program = (
        f"import sys; sys.argv = ['lieq-edge', 'cache', 'list', '--cache-dir', {str(folder)!r}]\n"
        "from lieq_edge.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'llama_cpp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)
