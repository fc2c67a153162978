"""What is measured and what is refused, for each combination of rounding, metric and calibration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from foreign import foreign_model
from tiny import cached_model

from lieq_edge import InputError, Settings, export_models, resolve
from lieq_edge.allocation.by_levels import ByLevels
from lieq_edge.allocation.by_loss import ByLoss
from lieq_edge.evidence.loss.request import Follow
from lieq_edge.gguf.types import TYPES
from lieq_edge.pipeline import gather as gathering
from lieq_edge.pipeline import job as jobs
from lieq_edge.pipeline.calibration import CalibrationText, NoCalibration
from lieq_edge.pipeline.job import Job
from lieq_edge.runtimes import LlamaRuntime, TorchRuntime
from lieq_edge.system.progress import reporting_to

ROUNDINGS = (None, "nearest", "imatrix", "feedback", "feedback-once")
METRICS = ("geometry", "saliency", "composite", "loss", "first")
CALIBRATIONS = (None, "docs", "none")


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """Lines that are reported to the user."""
    lines: list[str] = []
    with reporting_to(lambda event: lines.append(event.message)):
        yield lines


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
    chosen = rounding or "feedback-once"
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
        assert job.calibration == CalibrationText(calibration or "builtin", 16384 if follows_loss else 8192)
    else:
        assert job.calibration == NoCalibration(wanted=calibration == "none")
    needs = {"geometry": {"geometry"}, "saliency": {"saliency"}, "composite": {"geometry", "saliency"}}
    assert job.blocks.measurements == needs.get(metric, set())
    follow = {"feedback": Follow.STREAM, "feedback-once": Follow.HESSIANS}
    assert job.rounder.follow == follow.get(name)


def test_nothing_that_nearest_rounding_does_not_read_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a calibration text was made")

    monkeypatch.setattr(jobs, "calibration_windows", refuse)
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


@pytest.mark.parametrize(
    ("settings", "metric", "rounding", "tokens"),
    [
        ({"budget": "90MB"}, "loss", "feedback-once", 16384),
        ({"budget": "3.2bpw"}, "loss", "feedback-once", 16384),
        ({"budget": "90MB", "effort": "quick"}, "loss", "feedback-once", 4096),
        ({"budget": "90MB", "effort": "best"}, "loss", "feedback", 32768),
        ({"budget": "90MB", "effort": "best", "rounding": "imatrix"}, "loss", "imatrix", 32768),
        ({"budget": "90MB", "effort": "quick", "calibration_tokens": 2048}, "loss", "feedback-once", 2048),
        ({"budget": "90MB", "effort": "quick", "metric": "first"}, "first", "imatrix", 8192),
        ({"budget": "3"}, "geometry", "feedback-once", 16384),
        ({"budget": "3", "effort": "quick"}, "geometry", "imatrix", 8192),
        ({"budget": "3", "types": "k"}, "loss", "feedback-once", 16384),
        ({"budget": "3", "types": "portable"}, "geometry", "feedback-once", 16384),
        ({"budget": "90MB", "types": "portable"}, "loss", "feedback-once", 16384),
        ({"budget": "90MB", "types": "portable", "levels": "2,4"}, "geometry", "feedback-once", 16384),
        ({"budget": "3", "granularity": "block"}, "loss", "feedback-once", 16384),
        ({"budget": "90MB", "levels": "2,4"}, "geometry", "feedback-once", 16384),
        ({"budget": "90MB", "metric": "first"}, "first", "feedback-once", 16384),
        ({"budget": "90MB", "calibration": "none"}, "geometry", "nearest", None),
        ({"budget": "90MB", "calibration_tokens": 512}, "geometry", "imatrix", 512),
    ],
)
def test_what_is_left_open_follows_from_budget_and_effort(
    settings: dict[str, Any], metric: str, rounding: str, tokens: int | None
) -> None:
    job = job_of(**settings)
    assert (job.allocator.metric, job.rounder.name) == (metric, rounding)
    read = job.calibration.tokens if isinstance(job.calibration, CalibrationText) else None
    assert read == tokens
    assert f"--rounding {rounding}" in job.method.sentence
    assert f"--effort {settings.get('effort', 'normal')}" in job.method.sentence


def test_where_pytorch_cannot_run_the_model_a_size_takes_geometry(tmp_path: Path) -> None:
    foreign = job_of(foreign_model(tmp_path / "m.gguf", "internlm2"), budget="90MB")
    assert (type(foreign.runtime), foreign.allocator.metric, foreign.rounder.name) == (
        LlamaRuntime,
        "geometry",
        "imatrix",
    )
    assert "llama.cpp runs this model and gives no gradients" in foreign.method.sentence
    assert type(job_of().runtime) is TorchRuntime


def test_each_method_says_how_to_get_the_other() -> None:
    assert "--metric geometry takes the paper's score" in job_of(budget="90MB").method.sentence
    assert "a size such as 90MB takes predicted losses" in job_of(budget="3").method.sentence


@pytest.mark.parametrize("settings", [{"budget": "90MB"}, {"budget": "12bpw"}, {"budget": "90MB", "levels": "2,3"}])
def test_a_budget_beyond_what_the_types_can_fill_is_reported(settings: dict[str, Any], notes: list[str]) -> None:
    job_of(**settings)
    (note,) = [note for note in notes if "more than this model can use" in note]
    assert "MB;" in note or "bits a weight;" in note


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"budget": "90MB"}, "all blocks are in Q8_0 then, the largest type."),
        ({"budget": "90MB", "levels": "4,8"}, "all blocks are in Q8_0 then, the largest type."),
        ({"budget": "90MB", "levels": "2,3"}, "allow larger --levels (up to 8) to use more."),
        ({"budget": "90MB", "types": "Q2_K,Q3_K"}, "allow larger --types (up to Q8_0) to use more."),
    ],
)
def test_a_budget_beyond_reach_gets_advice_that_helps(settings: dict[str, Any], advice: str, notes: list[str]) -> None:
    job_of(**settings)
    (note,) = [note for note in notes if "more than this model can use" in note]
    assert note.endswith(advice)


def test_a_budget_within_reach_is_not_reported(notes: list[str]) -> None:
    job_of(budget="5bpw")
    job_of(budget="3")
    assert not any("more than this model can use" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric": "loss", "levels": "2,4"}, "--levels has no use with --metric loss"),
        ({"metric": "geometry", "types": "k"}, "--types is for --metric loss only"),
        ({"metric": "geometry", "granularity": "block"}, "--granularity is for --metric loss only"),
        ({"levels": "2,4", "types": "k"}, "--levels and --types are of two methods"),
        ({"imatrix": "m.dat", "calibration": "docs"}, "--imatrix takes the place"),
        ({"imatrix": "m.dat", "rounding": "feedback"}, "--imatrix is read for --rounding imatrix only"),
        ({"imatrix": "m.dat", "metric": "loss"}, "--imatrix is read for --rounding imatrix only"),
        ({"budget": "9"}, "out of reach"),
        ({"budget": "9kB", "metric": "loss"}, "out of reach"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.dat").touch()
    with pytest.raises(InputError, match=words):
        job_of(**settings)


@pytest.mark.parametrize("name", ["text", "calibration", "probe_text", "imatrix", "device"])
def test_names_are_checked_before_the_model_is_opened(name: str, tmp_path: Path) -> None:
    settings = Settings(budget="3", **{name: "wrong.txt"})
    files = [(tmp_path / "o.gguf", settings)]
    with pytest.raises(InputError, match=r"wrong\.txt"):
        export_models("no-model", files)
    with pytest.raises(InputError, match=r"wrong\.txt" if name != "text" else "no-model"):
        resolve("no-model", settings)


def test_quick_predicts_losses_from_fewer_rows() -> None:
    quick, normal = (job_of(budget="90MB", effort=effort).method.rows for effort in ("quick", "normal"))
    assert quick < normal


def test_warnings_are_not_repeated_for_a_model_that_is_opened_again(notes: list[str]) -> None:
    model = cached_model("llama", hidden=256, intermediate=512)
    for again in (False, True):
        jobs.open_for(model, Settings(budget="3", cache=False), notes=not again)
    (note,) = notes
    assert "ends a reply" in note
