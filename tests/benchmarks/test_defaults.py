"""The benchmark of flags: which flags a variant has, and its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from benchmarks.defaults import PLAIN, PRESETS, VARIANTS, Row, flags_of, main, render


def test_a_variant_is_a_name_or_any_flags() -> None:
    assert flags_of(PLAIN, 100) == ()
    assert flags_of("--effort quick", 100) == ("--effort", "quick")
    assert flags_of("--calibration-tokens x2", 100) == ("--calibration-tokens", "200")
    other = "--types all --tune-steps 3"
    assert other not in VARIANTS
    assert flags_of(other, 100) == ("--types", "all", "--tune-steps", "3")


def test_the_last_column_is_the_mean_over_the_plain_command() -> None:
    rows = [
        Row(variant, size, "wiki", 1_000_000, 20.0, kld, 0.001, 60.0)
        for variant, klds in ((PLAIN, (0.4, 0.2)), ("--tune-steps 3", (0.2, 0.1)))
        for size, kld in zip(("Q2_K", "Q3_K_M"), klds, strict=True)
    ]
    lines = render(rows).splitlines()
    assert "Q2_K, wiki" in lines[0]
    assert lines[-1].split("|")[-2].strip() == "0.500"


def test_files_and_presets_of_all_sizes_are_scored_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieq_edge.pipeline.calibration._LEAST_TOKENS", 512)
    monkeypatch.setattr("lieq_edge.pipeline.calibration._TOKENS_A_COLUMN", 1)
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    out, text = tmp_path / "out", tmp_path / "mine.txt"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "--texts", str(text), "--work", str(tmp_path / "work"), "--out", str(out), "--threads", "1"]
    short = "--calibration-tokens 512"
    words += ["--context", "64", "--chunks", "2", "--sizes", "Q3_K_M", "Q4_K_M", "--variants", short, PRESETS]
    assert main(words) == 0
    rows = [Row(**row) for row in json.loads(out.with_suffix(".json").read_text())]
    assert [(row.variant, row.size) for row in rows] == [(v, s) for v in (short, PRESETS) for s in ("Q3_K_M", "Q4_K_M")]
    for ours, theirs in zip(rows[:2], rows[2:], strict=True):
        assert 0.9 * theirs.file_bytes < ours.file_bytes <= theirs.file_bytes
        assert ours.kld > 0
        assert theirs.kld > 0
    assert not list((tmp_path / "work").glob("*.gguf"))
    assert main(words) == 0
