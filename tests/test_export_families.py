"""Families whose measuring or tensors are special go the whole way, with either rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import cached_model

import lieq_edge
from lieq_edge.validate.inspect import inspect_file

MODELS: dict[str, dict[str, Any]] = {
    "smollm3": {},
    "granite": {},
    "olmo2": {},
    "stablelm": {"config": {"use_parallel_residual": True, "qk_layernorm": True}},
    "gpt2": {"heads": (4, 4)},
}


@pytest.mark.parametrize("rounding", ["imatrix", "feedback"])
@pytest.mark.parametrize("family", MODELS)
def test_a_family_is_exported_and_stays_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, rounding: str
) -> None:
    monkeypatch.setattr("lieq_edge.measure.texts.CALIBRATION_CONTEXT", 128)
    model = cached_model(family, hidden=256, intermediate=256, **MODELS[family])
    settings = lieq_edge.ExportSettings(
        budget="4",
        rounding=rounding,
        calibration="docs",
        calibration_tokens=256,
        probe_tokens=64,
        context=64,
        chunks=2,
        threads=1,
    )
    report = lieq_edge.export_model(str(model), tmp_path / "out.gguf", settings)
    assert report.validation is not None
    assert report.validation.kld is not None
    # Four bits cost so little here; a matrix in the wrong place or the wrong way round costs whole nats.
    assert 1e-4 < report.validation.kld < 0.4
    blocks = inspect_file(tmp_path / "out.gguf").blocks
    assert {kind for block in blocks for kind in block.types.values()} == {"Q4_K"}
