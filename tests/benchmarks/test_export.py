"""Exports and presets of a tiny model in one table, which is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from benchmarks import export


def test_rows_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    out, text = tmp_path / "results", tmp_path / "text"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--context", "64", "--chunks", "2"]
    words += ["--calibration", "docs", "--calibration-tokens", "1024", "--rounding", "imatrix"]
    assert export.main([*words, "--budget", "3.0bpw", "--preset", "Q4_K_S"]) == 0
    whole, ours, preset = json.loads(out.with_suffix(".json").read_text())
    assert [row["name"] for row in (whole, ours, preset)] == [
        "unquantised",
        "lieq-edge geometry 3.0bpw",
        "llama_model_quantize Q4_K_S",
    ]
    assert whole["kld"] == pytest.approx(0.0, abs=1e-6)
    assert ours["block_bpw"] <= 3.0 < preset["block_bpw"]
    assert min(ours["kld"], preset["kld"]) > 1e-6
    assert ours["peak_rss_bytes"] > 1e8
    monkeypatch.setattr(export, "run", lambda *_: pytest.fail("the row exists"))
    assert export.main([*words, "--budget", "3.0bpw"]) == 0
    assert out.with_suffix(".md").read_text(encoding="utf-8").count("\n") == 5


def test_an_export_that_fails_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    words = [str(model), "--out", str(tmp_path / "results"), "--context", "64", "--chunks", "1", "--budget", "nonsense"]
    assert export.main(words) == 1
    assert "--budget nonsense" in capsys.readouterr().err
