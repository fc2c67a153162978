"""The benchmark of i-quants: feedback lowers the error of a type, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import tiny

from benchmarks.codebooks import Error, main, render


def test_feedback_lowers_the_error(tmp_path: Path) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=512, blocks=3)
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text(tiny.sample_text(6000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--types", "IQ3_S", "--calibration-tokens", "2048"]
    assert main([*words, "--blocks", "1", "--rows", "16", "--chunks", "2"]) == 0
    errors = [Error(**error) for error in json.loads(out.with_suffix(".json").read_text())]
    assert {error.tensor.split(".")[2] for error in errors} >= {"attn_q", "ffn_down"}
    assert all(0 < error.feedback < 1 for error in errors)
    assert sum(error.feedback for error in errors) < sum(error.encoder for error in errors)


def test_types_stand_by_size() -> None:
    errors = [Error("IQ3_S", "a", 0.04, 0.02, 10, 30), Error("IQ2_S", "a", 0.1, 0.08, 10, 20)]
    errors += [Error("IQ2_S", "b", 0.4, 0.32, 10, 40)]
    lines = render(errors).splitlines()
    assert lines[-2] == "| IQ2_S | 2.56 | 0.2000 | 0.1600 | 0.800 | 0.80 to 0.80 | 10 | 30 |"
    assert lines[-1].startswith("| IQ3_S | 3.44 |")
