"""Mixtures of experts with loss evidence and error feedback: from the model to a file that is nearer to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import cached_model, sample_text

from lieq_edge import ExportReport, Settings, export_model, open_source

EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


@pytest.fixture(scope="module", params=["qwen3_moe", "olmoe"])
def model(request: pytest.FixtureRequest) -> Path:
    heads = (4, 4) if request.param == "olmoe" else (4, 2)
    sizes = {"moe_intermediate_size": 256, "intermediate_size": 256}
    return cached_model(request.param, hidden=256, heads=heads, config=sizes)


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "text.txt").write_text(sample_text(40_000), encoding="utf-8")
    return folder


def export(model: Path, folder: Path, rounding: str, **more: object) -> ExportReport:
    values: dict[str, object] = {
        "budget": "3.6bpw",
        "metric": "loss",
        "rounding": rounding,
        "calibration": str(folder / "text.txt"),
        "calibration_tokens": 2048,
        "text": folder / "text.txt",
        "context": 128,
        "chunks": 4,
        "parity": False,
        "probe_tokens": 64,
        "cache_dir": folder / "cache",
    }
    return export_model(str(model), folder / f"{rounding}.gguf", Settings(**{**values, **more}), force=True)


def divergence(report: ExportReport) -> float:
    assert report.validation is not None
    assert report.validation.kld is not None
    return report.validation.kld


@pytest.mark.parametrize("rounding", ["feedback", "feedback-once"])
def test_feedback_is_nearer_than_importance_at_the_same_bytes(model: Path, folder: Path, rounding: str) -> None:
    plain, fed_back = (export(model, folder, name) for name in ("imatrix", rounding))
    assert fed_back.file_bytes <= 1.01 * plain.file_bytes
    assert divergence(fed_back) < 0.8 * divergence(plain)
    assert fed_back.predicted_loss is not None
    assert plain.predicted_loss is not None
    assert 0 < fed_back.predicted_loss < plain.predicted_loss


@pytest.mark.parametrize("rounding", ["feedback", "feedback-once"])
def test_types_by_blocks_are_judged_when_their_turn_comes(model: Path, folder: Path, rounding: str) -> None:
    report = export(model, folder, rounding, metric="geometry", probe_text=folder / "text.txt")
    plain = export(model, folder, "imatrix", metric="geometry", probe_text=folder / "text.txt")
    assert divergence(report) < 0.8 * divergence(plain)


def test_another_budget_runs_no_model(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = export(model, folder, "feedback-once", budget="3.9bpw", validation=False)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model is run again")

    monkeypatch.setattr("lieq_edge.evidence.loss.measure.BlockModel", refuse)
    second = export(model, folder, "feedback-once", budget="4.4bpw", validation=False)
    assert second.file_bytes > first.file_bytes


@pytest.mark.parametrize("rounding", ["feedback", "feedback-once"])
def test_bytes_do_not_depend_on_threads(model: Path, folder: Path, rounding: str) -> None:
    files = []
    for threads in (1, 2):
        report = export(model, folder, rounding, threads=threads, validation=False, cache_dir=folder / f"{threads}")
        files.append(open_source(report.out).read("blk.0.ffn_up_exps.weight").copy())
    assert np.mean(files[0] == files[1]) > 0.99


def test_experts_of_a_tensor_share_its_type_and_are_all_written(model: Path, folder: Path) -> None:
    written = open_source(export(model, folder, "feedback", validation=False).out)
    original = open_source(str(model))
    for role in EXPERTS:
        before, after = (source.read(f"blk.0.{role}.weight") for source in (original, written))
        error = np.square(after - before).sum((1, 2)) / np.square(before).sum((1, 2))
        assert error.shape == (8,)
        assert (error > 0).all()
        assert (error < 0.2).all()
