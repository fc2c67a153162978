"""Noise of the size of an importance's error, and the table of its effect."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from benchmarks import bfloat16
from benchmarks.bfloat16 import Effect, difference_of, disturbed, render


def test_noise_has_the_size_of_the_difference() -> None:
    exact = {"a": np.exp(np.random.default_rng(0).normal(size=4096)).astype(np.float32)}
    assert difference_of(exact, exact) == 0.0
    assert difference_of(exact, disturbed(exact, 0.01, 1)) == pytest.approx(0.01, rel=0.05)
    assert not np.array_equal(disturbed(exact, 0.01, 1)["a"], disturbed(exact, 0.01, 2)["a"])


def test_the_table_has_changes_in_percent() -> None:
    lines = render(Effect(0.0026, ["3bpw", "4bpw"], {"float32": [0.5, 0.2], "bfloat16": [0.55, 0.2]})).splitlines()
    assert lines[2] == "| float32, KLD | 0.5000 | 0.2000 |  |"
    assert lines[3] == "| bfloat16 | +10.00 % | +0.00 % | +4.88 % |"


def test_a_tiny_model_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: True)
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--work", str(tmp_path / "work")]
    words += ["--calibration-tokens", "512", "--context", "64", "--chunks", "1"]
    assert bfloat16.main([*words, "--budgets", "3.0bpw", "--controls", "1"]) == 0
    effect = Effect(**json.loads(out.with_suffix(".json").read_text()))
    assert list(effect.kld) == ["float32", "bfloat16", "noise 0"]
    assert 0 < effect.difference < 0.1
    assert effect.kld["bfloat16"][0] == pytest.approx(effect.kld["float32"][0], rel=0.5)
