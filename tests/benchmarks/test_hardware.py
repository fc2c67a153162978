"""Rates are measured, and the file for the disk is removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.hardware import best_seconds, main


def test_rates_of_products_and_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--work", str(tmp_path), "--sizes", "32", "64", "--seconds", "0.01", "--disk-bytes", "1000"]
    assert main([*words, "--threads", "1"]) == 0
    rates = json.loads(capsys.readouterr().out)
    assert rates["bfloat16"] == max(rates["bfloat16 32"], rates["bfloat16 64"])
    assert {"float32", "oneDNN float32", "float32 X^T X", "disk write", "disk read", "cached read"} <= set(rates)
    assert min(rates.values()) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_quickest_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 5.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr("benchmarks.hardware.time.perf_counter", lambda: next(times))
    assert best_seconds(lambda: None, seconds=6.0, least=3) == 2.0
