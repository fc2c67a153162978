"""What is measured and what is refused, for each combination of rounding, metric and calibration."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from foreign import foreign_model
from tiny import cached_model

from lieq_edge import InputError, Settings, resolve
from lieq_edge.allocation.by_levels import ByLevels
from lieq_edge.allocation.by_loss import ByLoss
from lieq_edge.evidence.loss.request import Follow
from lieq_edge.gguf.types import TYPES
from lieq_edge.pipeline import gather as gathering
from lieq_edge.pipeline.calibration import CalibrationText, NoCalibration
from lieq_edge.pipeline.job import Job
from lieq_edge.runtimes import LlamaRuntime, TorchRuntime

ROUNDINGS = (None, "nearest", "imatrix", "feedback", "feedback-once")
METRICS = ("geometry", "saliency", "composite", "loss", "first")
CALIBRATIONS = (None, "docs", "none")


def job_of(model: Path | None = None, **settings: Any) -> Job:
    path = cached_model("llama", hidden=256, intermediate=512) if model is None else model
    given = {name: value for name, value in settings.items() if value is not None}
    return resolve(path, Settings(budget=given.pop("budget", "4"), **given))


def expected(rounding: str | None, metric: str, calibration: str | None) -> tuple[str, bool] | str:
    """The rounding and whether a text is read, or words of the refusal."""
    if calibration == "none":
        if metric == "loss":
            return "metric loss is measured on a calibration text"
        if rounding in ("feedback", "feedback-once"):
            return "follows a calibration text"
        if rounding == "imatrix":
            return "needs a calibration text or --imatrix"
        return "nearest", False
    chosen = rounding or "feedback"
    return chosen, chosen != "nearest" or metric == "loss"


@pytest.mark.parametrize(("rounding", "metric", "calibration"), list(product(ROUNDINGS, METRICS, CALIBRATIONS)))
def test_each_combination(rounding: str | None, metric: str, calibration: str | None) -> None:
    outcome = expected(rounding, metric, calibration)
    settings = {"rounding": rounding, "metric": metric, "calibration": calibration}
    if isinstance(outcome, str):
        with pytest.raises(InputError, match=outcome):
            job_of(**settings)
        return
    job = job_of(**settings)
    name, reads_text = outcome
    assert job.rounder.name == name
    assert isinstance(job.allocator, ByLoss if metric == "loss" else ByLevels)
    assert isinstance(job.calibration, CalibrationText) == reads_text
    if isinstance(job.calibration, CalibrationText):
        follows_loss = metric == "loss" or name in ("feedback", "feedback-once")
        assert job.calibration == CalibrationText(calibration or "self", 16384 if follows_loss else 8192)
    else:
        assert job.calibration == NoCalibration(wanted=calibration == "none")
    needs = {"geometry": {"geometry"}, "saliency": {"saliency"}, "composite": {"geometry", "saliency"}}
    assert job.blocks.measurements == needs.get(metric, set())
    follow = {"feedback": Follow.STREAM, "feedback-once": Follow.HESSIANS}
    assert job.rounder.follow == follow.get(name)


def test_nothing_that_nearest_rounding_does_not_read_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a calibration text was made")

    monkeypatch.setattr(gathering, "calibration_windows", refuse)
    job = job_of(rounding="nearest", metric="first")
    with gathering.gather(job) as evidence:
        assert evidence.importances == {}
        assert evidence.loss is None
        assert evidence.calibration is None


def test_losses_are_predicted_for_the_rounding_that_was_asked_for() -> None:
    """With equal weights every type has another loss than with importance, and 2-bit types are no candidates."""
    text = {"calibration": "docs", "calibration_tokens": 1024, "metric": "loss", "cache": False, "threads": 1}
    losses = {}
    for rounding in ("nearest", "imatrix", "feedback"):
        job = job_of(rounding=rounding, **text)
        with gathering.gather(job, rounding=False) as evidence:
            assert evidence.loss is not None
            by_type = evidence.loss.losses["blk.0.attn_q.weight"]
            losses[rounding] = {kind: job.rounder.predicted(loss) for kind, loss in by_type.items()}
    assert set(losses["imatrix"]) - set(losses["nearest"]) == {
        kind for kind in losses["imatrix"] if TYPES[kind].needs_importance
    }
    assert losses["nearest"]["Q3_K"] > losses["imatrix"]["Q3_K"] > losses["feedback"]["Q3_K"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric": "loss"}, "gives no gradients"),
        ({"rounding": "feedback"}, "gives no gradients"),
        ({"rounding": "feedback-once"}, "gives no gradients"),
        ({"metric": "saliency"}, "cannot leave out a block"),
        ({"metric": "composite"}, "cannot leave out a block"),
        ({"baseline": "network"}, "no untrained counterpart"),
    ],
)
def test_what_llama_cpp_does_not_give_is_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    model = foreign_model(tmp_path / "m.gguf", "internlm2")
    with pytest.raises(InputError, match=words):
        job_of(model, **settings)


def test_the_usual_rounding_follows_from_the_runtime_and_the_text(tmp_path: Path) -> None:
    foreign = job_of(foreign_model(tmp_path / "m.gguf", "internlm2"))
    assert (type(foreign.runtime), foreign.rounder.name) == (LlamaRuntime, "imatrix")
    assert (type(job_of().runtime), job_of().rounder.name) == (TorchRuntime, "feedback")
    assert job_of(calibration_tokens=512).rounder.name == "imatrix"
    assert job_of(cached_model("qwen3_moe")).rounder.name == "feedback"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric": "loss", "levels": "2,4"}, "--levels has no use with --metric loss"),
        ({"types": "k"}, "--types is for --metric loss only"),
        ({"granularity": "block"}, "--granularity is for --metric loss only"),
        ({"imatrix": "m.dat", "calibration": "docs"}, "--imatrix takes the place"),
        ({"imatrix": "m.dat", "rounding": "feedback"}, "--imatrix is read for --rounding imatrix only"),
        ({"imatrix": "m.dat", "metric": "loss"}, "--imatrix is read for --rounding imatrix only"),
        ({"budget": "9"}, "out of reach"),
        ({"budget": "9kB", "metric": "loss"}, "out of reach"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        job_of(**settings)
