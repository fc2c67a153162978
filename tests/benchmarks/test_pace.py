"""Predicted and measured speed come into one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.pace import Row, main, report
from lieq_edge import load_profile


def test_a_file_has_predicted_and_measured_speeds(tiny_gguf: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "pace"
    profile = tmp_path / "profile.yaml"
    profile.write_text("based_on: pi5-4gb\nname: here\nthreads: 1\n")
    assert main([str(tiny_gguf()), "--device", str(profile), "--repeats", "1", "--out", str(out)]) == 0
    (row,) = json.loads(out.with_suffix(".json").read_text())
    assert min(value for name, value in row.items() if name != "file") > 0
    assert "Geometric mean of the ratios" in out.with_suffix(".md").read_text()


def test_ratios_and_their_means() -> None:
    text = report([Row("a", 50, 100, 30, 20), Row("b", 200, 100, 20, 30)], load_profile("pi5-4gb"))
    assert "| a | 50.0 | 100.0 | 0.50 | 30.0 | 20.0 | 1.50 |" in text
    assert "1.00 for prompts, 1.00 for answers" in text
