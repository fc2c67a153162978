"""The benchmark of calibration tokens: more of them help, on a tiny model."""

from __future__ import annotations

import argparse
from pathlib import Path

import tiny

from benchmarks.tokens import Gain, measure, plot, render, summary


def test_more_tokens_gain_more(tmp_path: Path) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=512, blocks=3)
    args = argparse.Namespace(calibration="docs", tokens="1024,8192", type="Q3_K", blocks=1, chunks=4)
    gains = measure(str(model), tiny.sample_text(12000, seed=5), args)
    assert {gain.columns for gain in gains} == {256, 512}
    assert {gain.tokens for gain in gains} == {1024, 8192}
    for ratios in summary(gains).values():
        assert 0 < ratios[8192] < ratios[1024]
    plot(gains, tmp_path / "tokens.png")
    assert (tmp_path / "tokens.png").stat().st_size > 1000


def test_the_table_has_geometric_means() -> None:
    gains = [
        Gain("a", "t", 256, 512, 0.5),
        Gain("a", "u", 256, 512, 0.125),
        Gain("a", "t", 256, 1024, 0.5),
    ]
    assert render(gains).splitlines()[-1] == "| a | 256 | 0.250 | 0.500 |"
