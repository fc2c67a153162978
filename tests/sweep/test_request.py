"""sweep.yaml: what it means, and what is refused with the line it stands in."""

from __future__ import annotations

from pathlib import Path

import pytest

from lieq_edge.errors import InputError
from lieq_edge.sweep.request import make_sweep, read_sweep

GOOD = """\
description: two sizes
models: [demo, org/name]
budgets:
  - Q2_K
  - 3.0bpw
metrics: [loss, geometry]
efforts: [quick]
types: all
levels: 2,4
seed: 3
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_model_budget_metric_and_effort_is_an_entry(tmp_path: Path) -> None:
    entries = read_sweep(written(tmp_path, GOOD)).entries()
    assert [(entry.model, entry.metric, entry.budget) for entry in entries] == [
        (model, metric, budget)
        for model in ("demo", "org/name")
        for metric in ("loss", "geometry")
        for budget in ("Q2_K", "3.0bpw")
    ]
    by_loss, by_levels = entries[0].settings, entries[2].settings
    # As with a recipe, what is of no use for a metric is left out for it.
    assert (by_loss.types, by_loss.gives("levels")) == ("all", False)
    assert (by_levels.levels, by_levels.gives("types")) == ((2, 4), False)
    assert {entry.settings.seed for entry in entries} == {3}
    assert {entry.settings.effort for entry in entries} == {"quick"}


def test_metrics_and_efforts_may_be_left_out(tmp_path: Path) -> None:
    (entry,) = read_sweep(written(tmp_path, "models: [demo]\nbudgets: [90MB]\n")).entries()
    assert (entry.metric, entry.effort) == (None, "normal")
    assert not entry.settings.gives("metric")


def test_paths_are_absolute_for_workers_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "mine.txt").write_text("text")
    values = {"models": ["model", "org/name"], "budgets": [3], "calibration": "mine.txt", "cache_dir": "cache"}
    entry, other = make_sweep(values).entries()
    assert (entry.model, entry.place, other.place) == ("model", str(tmp_path / "model"), "org/name")
    assert entry.settings.calibration == str(tmp_path / "mine.txt")
    assert entry.settings.cache_dir == tmp_path / "cache"


def test_a_device_leaves_the_budget_fit() -> None:
    (entry,) = make_sweep({"models": ["demo"], "budgets": ["fit"], "device": "pi5-4gb", "kv": "q8_0"}).entries()
    assert (entry.settings.budget, entry.settings.device, entry.settings.kv) == ("fit", "pi5-4gb", "q8_0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [demo]\nbudgets: [Q2_K]\nmodel: x\n", ("line 3 (model) is unknown", "did you mean models?")),
        ("models: [demo]\nbudgets: [Q2_K]\nzzz: x\n", ("line 3 (zzz) is unknown", "metrics")),
        ("models: []\nbudgets: [Q2_K]\n", ("line 1 (models) is empty",)),
        ("models: [demo]\n", ("has no budgets", "budgets: [Q4_K_M")),
        ("budgets: [Q2_K]\n", ("has no models",)),
        ("models: demo\nbudgets: [Q2_K]\n", ("line 1 (models) takes a list",)),
        ("models: [[demo]]\nbudgets: [Q2_K]\n", ("line 1 (models)", "not a text")),
        ("models: [demo]\nbudgets:\n- Q2_K\n- Q9_Z\n", ("line 4 (budgets)", "'Q9_Z' is not understood")),
        ("models: [demo]\nbudgets: [Q2_K, 3, Q2_K]\n", ("line 2 (budgets) has Q2_K twice",)),
        ("models: [demo]\nbudgets: [Q2_K, '']\n", ("line 2 (budgets) has an empty item",)),
        ("models: [demo]\nbudgets: [3]\nmetrics: [magic]\n", ("line 3 (metrics)", "--metric got 'magic'")),
        ("models: [demo]\nbudgets: [3]\nefforts: [huge]\n", ("line 3 (efforts)", "--effort got 'huge'")),
        ("models: [demo]\nbudgets: [3]\n\nchunks: none\n", ("line 4 (chunks)", "--chunks got 'none'")),
        ("models: [demo]\nbudgets: [3]\nbudget: 4\n", ("line 3 (budget)", "list the budgets")),
        ("models: [demo]\nbudgets: [3]\ncache: false\n", ("line 3 (cache)", "cache_dir")),
        ("models: [demo]\nbudgets: [3]\nmax_ppl_ratio: 2\n", ("line 3 (max_ppl_ratio)", "results.jsonl")),
        ("models: [demo]\nbudgets: [fit]\n", ("fit with normal", "--device")),
        (
            "models: [demo]\nbudgets: [3]\nmetrics: [geometry]\nmin_tps: 5\n",
            ("3 with geometry and normal", "--min-tps"),
        ),
        ("- models\n", ("must hold settings",)),
        ("models: [demo]\nmodels: [x]\n", ("gives models twice",)),
        ("models: [\n", ("is not YAML",)),
    ],
)
def test_a_wrong_sweep_is_one_sentence_with_its_place(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as refused:
        read_sweep(path)
    assert str(path) in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_sweep_of_python_is_checked_too() -> None:
    with pytest.raises(InputError, match="The sweep, budgets is empty"):
        make_sweep({"models": ["demo"], "budgets": []})
    with pytest.raises(InputError, match="True"):
        make_sweep({"models": ["demo"], "budgets": [True]})
