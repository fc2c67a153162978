"""Uniform quantisation of a tiny model by calibration text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from benchmarks import calibration


def test_finer_types_do_less_harm_and_rows_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.cached_model("llama", hidden=96, intermediate=256, blocks=2, heads=(6, 2))
    out, text = tmp_path / "out", tmp_path / "text"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--context", "64", "--chunks", "2"]
    words += ["--calibration-tokens", "512", "--types", "Q2_K", "Q8_0", "--origins", "none"]
    assert calibration.main(words) == 0
    monkeypatch.setattr(calibration, "Uniform", lambda *_: pytest.fail("the row exists"))
    assert calibration.main(words) == 0
    monkeypatch.undo()
    assert calibration.main([*words, "docs"]) == 0
    scores = {
        (score["calibration"], score["type"]): score for score in json.loads(out.with_suffix(".json").read_text())
    }
    assert list(scores) == [("none", "Q2_K"), ("none", "Q8_0"), ("docs", "Q2_K"), ("docs", "Q8_0")]
    for name in ("none", "docs"):
        assert scores[name, "Q2_K"]["kld"] > 20 * scores[name, "Q8_0"]["kld"] > 0
    assert scores["docs", "Q2_K"]["kld"] != scores["none", "Q2_K"]["kld"]
    assert "unquantised PPL" in out.with_suffix(".md").read_text(encoding="utf-8")


def test_padding_does_not_change_a_row_of_whole_blocks() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32)
    assert np.array_equal(
        calibration.rounded(rows, "Q8_0", None)[:, :256], calibration.rounded(rows[:, :256], "Q8_0", None)
    )
    narrow = calibration.rounded(rows[:, :96], "Q3_K", np.ones(96, np.float32))
    assert narrow.shape == (4, 96)
    assert np.abs(narrow - rows[:, :96]).mean() < 0.2
