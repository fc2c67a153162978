"""The steps that an export announces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import cached_model, short_settings

import lieq_edge
from lieq_edge import Settings, resolve
from lieq_edge.pipeline import steps
from lieq_edge.pipeline.job import Job
from lieq_edge.pipeline.machine import Machine, measure_machine, measure_without_pytorch
from lieq_edge.pipeline.steps import schedule_of


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {**short_settings(tmp_path), "cache_dir": tmp_path / "cache"}


def job(out: Path, **settings: Any) -> Job:
    return resolve(cached_model("llama", hidden=256, intermediate=512), Settings(**settings), out=out)


def names(*jobs: Job, presets: int = 0) -> list[str]:
    return [step.name for step in schedule_of(list(jobs), presets=presets).steps]


def test_only_what_is_not_known_is_a_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    size = {"budget": "5bpw", **settings}
    assert names(job(first, **size)) == ["parity", "loss weights", "quantize and write", "validate"]
    report = lieq_edge.export_model(cached_model("llama", hidden=256, intermediate=512), first, Settings(**size))
    assert set(names(job(second, **size))) <= set(report.seconds)
    other = {**size, "budget": "4.5bpw"}
    assert names(job(second, **other)) == ["quantize and write", "validate"]
    assert names(job(second, **other, validation=False)) == ["quantize and write"]
    paper = {**settings, "budget": "3", "rounding": "imatrix"}
    assert names(job(second, **paper)) == ["measure", "calibrate", "quantize and write", "validate"]


def test_a_plan_announces_only_what_it_does(settings: dict[str, Any]) -> None:
    model = cached_model("llama", hidden=256, intermediate=512)
    planned = {**settings, "calibration": "docs"}
    assert names(resolve(model, Settings(budget="2.5", **planned))) == ["measure"]
    assert names(resolve(model, Settings(budget="5bpw", **planned))) == ["loss weights"]


def test_later_budgets_share_what_the_first_measures(tmp_path: Path, settings: dict[str, Any]) -> None:
    jobs = [job(tmp_path / f"{bits}.gguf", budget=f"{bits}bpw", **settings) for bits in (4, 5)]
    both = ["quantize and write", "validate", "compare"]
    assert names(*jobs, presets=1) == ["parity", "loss weights", *both, *both]


def test_a_later_budget_of_another_kind_has_steps_of_its_own(tmp_path: Path, settings: dict[str, Any]) -> None:
    by_size = job(tmp_path / "a.gguf", budget="5bpw", **settings)
    by_score = job(tmp_path / "b.gguf", budget="3", **settings)
    assert "measure" not in names(by_size)
    assert "measure" in names(by_size, by_score)


def test_a_text_that_the_model_writes_is_a_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    written = {**settings, "budget": "5bpw", "calibration": "self"}
    assert names(job(tmp_path / "a.gguf", **written))[:3] == ["parity", "calibration text", "loss weights"]


def test_estimates_grow_with_the_work(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rates of a loaded machine differ from one measurement to the next.
    monkeypatch.setattr(steps, "measure_machine", lambda *_, **__: Machine(2e9, 1e9, 1e9, 1e6))

    def seconds(**more: Any) -> dict[str, float]:
        done = schedule_of([job(tmp_path / "a.gguf", **{"budget": "5bpw", **settings, **more})]).steps
        assert all(step.seconds > 0 for step in done)
        return {step.name: step.seconds for step in done}

    short, long = seconds(), seconds(calibration_tokens=4096)
    assert long["loss weights"] > short["loss weights"]
    assert seconds(chunks=4)["validate"] > short["validate"]
    with_codebooks = seconds(types="all")
    for step in ("loss weights", "quantize and write"):
        assert with_codebooks[step] > short[step]
    assert seconds(effort="best")["quantize and write"] > short["quantize and write"]


def test_a_machine_has_rates() -> None:
    for machine in (measure_machine(1), measure_without_pytorch()):
        assert 1e8 < machine.exact < 1e14
        assert machine.quick >= 0.5 * machine.exact
        assert 1e4 < machine.encode < 1e10
