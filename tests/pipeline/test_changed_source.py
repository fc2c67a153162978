"""The model that is measured is the model that is named: weights that change meanwhile are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import make_model

from lieq_edge import Event, InputError, Settings, export_model

FAST = {"calibration": "docs", "calibration_tokens": 512, "probe_tokens": 64, "validation": False, "threads": 1}


@pytest.mark.parametrize("stage", ["Measuring geometry", "Calibrating", "Quantise and write"])
def test_weights_that_change_during_an_export_are_named_and_nothing_is_kept(tmp_path: Path, stage: str) -> None:
    model = make_model(tmp_path / "model", hidden=256, intermediate=256)
    other = make_model(tmp_path / "other", hidden=256, intermediate=256, seed=1) / "model.safetensors"
    weights, out, cache = model / "model.safetensors", tmp_path / "out" / "o.gguf", tmp_path / "cache"
    out.parent.mkdir()
    original = weights.read_bytes()
    settings = Settings(budget="3", rounding="imatrix", cache_dir=cache, **FAST)

    def swap(event: Event) -> None:
        if event.stage == stage and event.done == 1:
            shutil.copyfile(other, weights.with_suffix(".new"))
            weights.with_suffix(".new").replace(weights)

    with pytest.raises(InputError, match=r"model\.safetensors changed while"):
        export_model(model, out, settings, progress=swap)
    assert list(out.parent.iterdir()) == []
    # With the old weights back, the cache holds nothing of the new ones.
    weights.write_bytes(original)
    export_model(model, out, settings)
    expected = out.parent / "expected.gguf"
    export_model(model, expected, settings.model_copy(update={"cache": False}))
    assert out.read_bytes() == expected.read_bytes()
