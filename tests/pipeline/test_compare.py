"""A written file beside llama.cpp's presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import cached_model, sample_text

from lieq_edge import Evidence, Job, Settings, allocate, export_models, gather, resolve, write
from lieq_edge.errors import InputError
from lieq_edge.pipeline.compare import check_comparison, check_makeable, compare_presets
from lieq_edge.presets.make import make_preset
from lieq_edge.presets.names import NEAREST
from lieq_edge.presets.sizes import preset_bytes
from lieq_edge.runtimes.pytorch import TorchRuntime
from lieq_edge.sources.plain import write_plain
from lieq_edge.store import Run
from lieq_edge.texts.windows import calibration_windows
from lieq_edge.validate.perplexity import validate
from lieq_edge.validate.reference import StreamedReference

WIDE: dict[str, Any] = {"hidden": 256, "intermediate": 512, "heads": (4, 2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "text.txt").write_text(sample_text(40_000), encoding="utf-8")
    return folder


def settings(folder: Path, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "budget": "4.6bpw",
        "metric": "loss",
        "rounding": "feedback-once",
        "calibration": str(folder / "text.txt"),
        "calibration_tokens": 1024,
        "text": folder / "text.txt",
        "context": 128,
        "chunks": 4,
        "parity": False,
        "threads": 1,
    }
    return Settings(**{**values, **more})


def written(model: Path, out: Path, chosen: Settings) -> tuple[Job, Evidence]:
    job = resolve(model, chosen, out=out)
    with gather(job) as evidence:
        write(job, evidence, allocate(job, evidence))
    return job, evidence


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_presets_are_made_and_scored_as_by_hand(kind: str, folder: Path, tmp_path: Path) -> None:
    model, out = cached_model("llama", **WIDE), tmp_path / "ours.gguf"
    if kind == "file":
        from lieq_edge import open_source

        write_plain(folder / "model.gguf", open_source(str(model)), "F16")
        model = folder / "model.gguf"
    job, evidence = written(model, out, settings(folder))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    rows = compare_presets(job, evidence, out, ["Q4_K_M", "IQ2_XXS"], speed=False)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert [row.name for row in rows] == ["ours.gguf", "Q4_K_M", "IQ2_XXS"]
    assert [row.decode for row in rows] == [None] * 3

    windows, _ = calibration_windows(job.source, str(folder / "text.txt"), tokens=1024)
    importances = TorchRuntime(job.source, threads=1).measure_importances(windows, run=Run(None))
    text = (folder / "text.txt").read_text(encoding="utf-8")
    reference = job.source.gguf_path or job.source
    assert job.validation is not None
    for row, path in zip(rows, (out, tmp_path / "q4.gguf", tmp_path / "iq2.gguf"), strict=True):
        if path != out:
            size = make_preset(job.source, row.name, path, importances, threads=1)
            assert size == preset_bytes(job.source, row.name)
        assert row.file_bytes == path.stat().st_size
        assert row.validation == validate(
            path, text, text_name="text.txt", context=128, chunks=4, reference=reference, threads=1
        )
    assert rows[1].validation.kld is not None
    assert rows[2].validation.kld is not None
    assert 0 < rows[1].validation.kld < rows[2].validation.kld


def test_the_nearest_preset_is_taken_and_nothing_is_measured_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = cached_model("llama", **WIDE), tmp_path / "ours.gguf"
    job = resolve(model, settings(folder), out=out)
    with gather(job) as evidence:
        report = write(job, evidence, allocate(job, evidence))
    first = compare_presets(job, evidence, out, [NEAREST], ours=report.validation)
    assert first[0].validation == report.validation
    assert first[1].file_bytes <= 1.01 * out.stat().st_size
    for row in first:
        assert row.prefill is not None
        assert row.decode is not None
        assert min(row.prefill, row.decode) > 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured twice")

    # Importances and the original's part of the scores come from the cache.
    monkeypatch.setattr(TorchRuntime, "measure_importances", refuse)
    monkeypatch.setattr(StreamedReference, "_through_blocks", refuse)
    job, evidence = written(model, tmp_path / "again.gguf", settings(folder))
    again = compare_presets(job, evidence, tmp_path / "again.gguf", [NEAREST, first[1].name], speed=False)
    assert [(row.name, row.file_bytes) for row in again[1:]] == [(first[1].name, first[1].file_bytes)]
    assert again[1].validation == first[1].validation


def test_without_a_text_presets_are_made_without_an_imatrix(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.gguf"
    plain = settings(folder, metric="geometry", rounding="nearest", calibration="none", calibration_tokens=None)
    job, evidence = written(cached_model("llama", **WIDE), out, plain)
    rows = compare_presets(job, evidence, out, ["Q4_K_S"], speed=False)
    assert rows[1].file_bytes == preset_bytes(job.source, "Q4_K_S", importance=False)
    for name in ("IQ2_XXS", "Q2_K_S"):
        with pytest.raises(InputError, match=f"makes {name} with an imatrix only"):
            check_makeable(job, [NEAREST, "Q4_K_S", name])
    # The nearest is one that can be made, if the file has the size of another one.
    small = replace(job, settings=job.settings.model_copy(update={"budget": "Q2_K_S"}))
    (_, row) = compare_presets(small, evidence, out, [NEAREST], speed=False)
    assert row.name not in ("IQ2_XXS", "Q2_K_S")
    assert [path.name for path in tmp_path.iterdir()] == ["ours.gguf"]


def test_the_file_is_reported_if_the_comparison_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr("lieq_edge.pipeline.compare.make_preset", refuse)
    out, told = tmp_path / "ours.gguf", []
    with pytest.raises(InputError, match="the disk is full"):
        export_models(cached_model("llama", **WIDE), [(out, settings(folder))], compare=[NEAREST], on_file=told.append)
    assert [report.out for report in told] == [str(out)]
    assert out.is_file()


def test_presets_are_checked_before_any_work(folder: Path) -> None:
    given = settings(folder)
    assert check_comparison(given, []) == ()
    assert check_comparison(given, ["", "q4_k_m", "Q4_K", "Nearest"]) == (NEAREST, "Q4_K_M")
    with pytest.raises(InputError, match="no preset Q9"):
        check_comparison(given, ["Q9"])
    for field, flag in (("validation", "--no-validate"), ("reference", "--no-reference")):
        with pytest.raises(InputError, match=f"leave out --compare or {flag}"):
            check_comparison(settings(folder, **{field: False}), ["Q4_K_M"])
