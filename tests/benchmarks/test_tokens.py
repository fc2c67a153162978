"""The benchmark of calibration tokens: more of them help, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from benchmarks import tokens
from benchmarks.tokens import Gain, low_rank, main, render, summary


def test_more_tokens_gain_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=512, blocks=3)
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text(tiny.sample_text(12000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--tokens", "1024,8192", "--blocks", "1"]
    assert main([*words, "--chunks", "4"]) == 0
    gains = [Gain(**gain) for gain in json.loads(out.with_suffix(".json").read_text())]
    assert {gain.columns for gain in gains} == {256, 512}
    assert {gain.tokens for gain in gains} == {1024, 8192}
    for ratios in summary(gains).values():
        assert 0 < ratios[8192] < ratios[1024]
    assert out.with_suffix(".png").stat().st_size > 1000
    # A second run finds the model.
    monkeypatch.setattr(tokens, "measure", lambda *_: pytest.fail("the model is measured"))
    assert main(words) == 0


def test_h_of_low_rank() -> None:
    inputs = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)
    hessian = inputs.T @ inputs
    near = low_rank(hessian, 7)
    assert np.allclose(near.diagonal(), hessian.diagonal(), rtol=1e-5)
    # One eigenvalue is its own mean, so nothing is left out.
    assert np.allclose(near, hessian, atol=1e-3 * hessian.max())
    far = low_rank(hessian, 1)
    assert np.linalg.norm(far - hessian) > 0.01 * np.linalg.norm(hessian)
    assert np.linalg.matrix_rank(low_rank(np.outer(inputs[0], inputs[0]) + np.eye(8, dtype=np.float32), 1)) == 8


def test_the_table_has_geometric_means() -> None:
    gains = [
        Gain("a", "t", 256, 512, 0.5),
        Gain("a", "u", 256, 512, 0.125),
        Gain("a", "t", 256, 1024, 0.5),
    ]
    assert render(gains).splitlines()[-1] == "| a | 256 | 0.250 | 0.500 |"
