"""Predicted and measured memory come into one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.memory import Row, main, report


def test_every_way_and_context_has_a_row(
    tiny_gguf: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory"
    assert main([str(tiny_gguf()), "--contexts", "256", "512", "--threads", "1", "--out", str(out)]) == 0
    rows = json.loads(out.with_suffix(".json").read_text())
    assert [(row["context"], row["way"]) for row in rows] == [
        (context, way) for context in (256, 512) for way in ("mapped", "read", "plain")
    ]
    assert all(row["predicted"] > 0 for row in rows)
    assert f"| {rows[0]['file']} | 256 | mapped |" in capsys.readouterr().out


def test_the_ratio_is_of_predicted_to_resident() -> None:
    assert "| a.gguf | 512 | read | 90.0 | 100.0 | 0.900 |" in report([Row("a.gguf", 512, "read", 90_000_000, 10**8)])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none.gguf"), "--out", str(tmp_path / "x")]) == 2
