"""Families whose measuring or tensors are special go the whole way, with each rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import cached_model

import lieq_edge
from lieq_edge.errors import InputError
from lieq_edge.gguf.inspect import inspect_file
from lieq_edge.llama.engine import Engine
from lieq_edge.sources import open_source
from lieq_edge.sources.plain import write_plain

FACTORS = [1 + i / 10 for i in range(24)]
MODELS: dict[str, dict[str, Any]] = {
    "mistral": {"tied": False, "tokenizer": "sentencepiece"},
    "gemma": {"head_dim": 64},
    "gemma2": {"head_dim": 64},
    "gemma3_text": {"head_dim": 64},
    "phi3": {
        "rope_scaling": {"type": "longrope", "long_factor": FACTORS, "short_factor": FACTORS},
        "config": {"partial_rotary_factor": 0.75},
    },
    "smollm3": {},
    "granite": {},
    "olmo2": {},
    "stablelm": {"config": {"use_parallel_residual": True, "qk_layernorm": True}},
    "gpt2": {"heads": (4, 4)},
}
EXPERTS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"config": {"moe_intermediate_size": 256}},
    "olmoe": {"heads": (4, 4)},
}


@pytest.mark.parametrize(
    ("family", "rounding"),
    [(family, rounding) for family in MODELS for rounding in ("imatrix", "feedback", "feedback-once")]
    + [(family, "imatrix") for family in EXPERTS],
)
def test_a_family_is_exported_and_stays_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, rounding: str
) -> None:
    monkeypatch.setattr("lieq_edge.texts.windows.CALIBRATION_CONTEXT", 128)
    model = cached_model(family, hidden=256, intermediate=256, **{**MODELS, **EXPERTS}[family])
    settings = lieq_edge.Settings(
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
    # What was written is a source of the same shapes again.
    written, source = open_source(str(tmp_path / "out.gguf")), open_source(str(model))
    assert [(t.name, t.shape) for t in written.tensors()] == [(t.name, t.shape) for t in source.tensors()]
    name = "blk.1.ffn_down_exps.weight" if family in EXPERTS else "blk.1.ffn_down.weight"
    exact, read = source.read(name), written.read(name)
    assert 0 < np.abs(read - exact).mean() < 0.1 * np.abs(exact).mean()


def test_windows_beyond_learned_positions_are_refused(tmp_path: Path) -> None:
    """llama.cpp would end the process when it reads past their table."""
    model = cached_model("gpt2", context=128)
    out = tmp_path / "out.gguf"
    with pytest.raises(InputError, match="positions for 128 tokens only"):
        lieq_edge.export_model(str(model), out, lieq_edge.Settings(budget="4", context=256, probe_tokens=64))
    assert not list(tmp_path.iterdir())
    write_plain(out, open_source(str(model)), "F32")
    with pytest.raises(InputError, match="positions for 128 tokens only"):
        Engine(out, context=256)
    with Engine(out, context=128, threads=1) as engine:
        assert np.isfinite(engine.logits(np.arange(128, dtype=np.int32)[None])).all()
