"""Exports for a device: the budget that it leaves, and a least speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runner import assert_refused, run
from tiny import cached_model

from lieq_edge import Settings, merge, plan_model, plan_models, resolve
from lieq_edge.device import measure
from lieq_edge.device.fit import fit_model
from lieq_edge.device.profile import Profile, TypeCost, load_profile
from lieq_edge.device.synthetic import Shape
from lieq_edge.errors import InputError
from lieq_edge.recipe import load_recipe
from lieq_edge.system.jsonio import save_json

FAST = {"calibration_tokens": 1024, "calibration": "docs", "context": 64, "threads": 1, "parity": False}


@pytest.fixture(scope="module")
def model() -> str:
    return str(cached_model("llama", hidden=256, intermediate=512, blocks=2))


@pytest.fixture
def board(tmp_path: Path, model: str) -> Path:
    """A device that has room for 0.9 MB of weights of ``model`` beside 512 tokens."""
    pi = load_profile("pi5-4gb")
    roomy = fit_model(model, pi, context=512)
    small = pi.with_memory(int(pi.system) + roomy.context.total + roomy.run + 900_000)
    path = tmp_path / "board.json"
    save_json(small.model_copy(update={"name": "board"}), path)
    return path


def test_the_budget_is_what_the_device_has_room_for(model: str, board: Path) -> None:
    job = resolve(model, Settings(device=str(board), context_size=512))
    assert (job.budget.kind, job.budget.value) == ("bytes", 900_000)
    assert job.method.metric == "loss"
    large, small = (resolve(model, Settings(device="pi5-2gb", context_size=65536, kv=kv)) for kv in ("f16", "q8_0"))
    assert small.budget.value > large.budget.value
    own = resolve(model, Settings(device=str(board), budget="3bpw"))
    assert own.budget.kind == "bpw"
    with pytest.raises(InputError, match=r"board has .* to spare, and a context of 1000000 tokens"):
        resolve(model, Settings(device=str(board), context_size=1_000_000))


def test_an_export_fits_the_device(model: str, board: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    words = ("--calibration-tokens", "1024", "--calibration", "docs", "--no-validate", "--threads", "1", "--json")
    done = run("export", model, "--device", board, "--context-size", "512", "-o", out, *words)
    assert done.returncode == 0, done.stderr
    assert "Note: board has room for weights of 900.0 kB beside 512 tokens (f16)." in done.stderr
    assert out.stat().st_size <= 900_000
    report = json.loads(done.stdout)
    assert report["budget"] == "of board with 512 tokens"
    assert report["pace"]["decode"] > 0
    fitted = run("fit", out, "--device", board, "--context", "512", "--json", "--quiet")
    assert "itself" in [size["name"] for size in json.loads(fitted.stdout)["sizes"] if size["loading"]]


def test_settings_that_need_a_device_are_refused_without_one(model: str) -> None:
    assert_refused(run("export", model, "-b", "1MB", "--kv", "q8_0", "-o", "x.gguf"), "--kv is for --device")
    assert_refused(run("plan", model, "-b", "1MB", "--context-size", "9"), "--context-size is for --device")
    assert_refused(run("plan", model, "-b", "fit"), "name it by --device")
    assert_refused(run("plan", model, "--device", "pi9"), "Known are")
    assert_refused(run("plan", model, "-b", "1MB", "--min-tps", "5", "--metric", "first"), "--metric loss only")
    assert_refused(run("plan", model, "-b", "3", "--min-tps", "5"), "--min-tps needs the metric loss")


def test_of_a_recipe_and_flags_the_flags_win() -> None:
    recipe = {"budget": "100MB", "types": "all"}
    assert merge(recipe, {"device": "pi5-4gb"}).budget == "fit"
    assert merge(recipe, {"device": "pi5-4gb", "budget": "3bpw"}).budget == "3bpw"
    boards = load_recipe("raspberry-pi-5-4gb")
    assert merge(boards, {}).budget == "fit"
    assert merge(boards, {"budget": "Q4_K_M"}).device is None
    assert merge(boards, {"device": "pi4-2gb"}).device == "pi4-2gb"


def test_a_least_speed_changes_types_and_is_met(model: str, tmp_path: Path) -> None:
    slow = {"Q2_K": 2.0, "Q3_K": 30.0, "Q4_K": 4.0, "Q5_K": 5.0, "Q6_K": 6.0, "Q8_0": 8.0}
    types = {k: TypeCost(prefill=v, decode=v, source="test", estimated=False) for k, v in slow.items()}
    device = load_profile("pi5-4gb").model_copy(update={"types": types})
    path = tmp_path / "slow.json"
    save_json(device, path)
    free = plan_model(model, Settings(budget="3.6bpw", device=str(path), **FAST))
    assert free.pace is not None
    wanted = 1.2 * free.pace.decode
    bound = plan_model(model, Settings(budget="3.6bpw", device=str(path), min_tps=wanted, **FAST))
    assert bound.pace is not None
    assert bound.pace.decode >= wanted * (1 - 1e-9)
    assert bound.bpw <= 3.6
    with pytest.raises(InputError, match="fastest file of the allowed types is predicted to reach"):
        resolve(model, Settings(budget="3.6bpw", device=str(path), min_tps=1e8, **FAST))


def test_without_a_device_this_machine_is_measured_once(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WIDE", Shape(hidden=256, inner=256, heads=4, blocks=2))
    made: list[Profile] = []
    real = measure._profile

    def kept(*arguments: object, **options: object) -> Profile:
        made.append(real(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(measure, "_profile", kept)
    for _ in range(2):
        plan = plan_model(model, Settings(budget="1MB", min_tps=1, **FAST))
        assert plan.pace is not None
    assert made[0].types == made[1].types
    assert set(made[0].types) >= {"Q2_K", "Q4_K", "Q8_0"}


def test_this_machine_is_measured_after_refusals_and_once_for_all_budgets(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(measure, "_WIDE", Shape(hidden=256, inner=256, heads=4, blocks=2))
    real = measure.measure_speed

    def counted(path: Path, **options: Any) -> Any:
        made.append(path.stem)
        return real(path, **options)

    monkeypatch.setattr(measure, "measure_speed", counted)
    with pytest.raises(InputError, match="1kB"):
        plan_model(model, Settings(budget="1kB", min_tps=1, **FAST))
    assert made == []
    plan_models(model, [Settings(budget=size, min_tps=1, cache=False, **FAST) for size in ("1MB", "900kB")])
    assert made.count("Q2_K") == 2  # wide and narrow
