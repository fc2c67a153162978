"""The benchmark of predicted losses measures what it says, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from benchmarks.predictions import Change, main, render


def test_changes_of_single_tensors_are_measured(tmp_path: Path) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--calibration-tokens", "1024", "--chunks", "2"]
    assert main([*words, "--types", "Q2_K,Q8_0", "--blocks", "2", "--context", "64"]) == 0
    changes = [Change(**change) for change in json.loads(out.with_suffix(".json").read_text())]
    assert "Spearman's rho of 14 changes" in out.with_suffix(".md").read_text(encoding="utf-8")
    assert len(changes) == 14
    rough = [change.measured for change in changes if change.type == "Q2_K"]
    fine = [change.measured for change in changes if change.type == "Q8_0"]
    assert {len(rough), len(fine)} == {6, 8}
    assert min(change.predicted for change in changes) > 0
    assert np.mean(rough) > 20 * np.mean(fine)


def test_the_table_ends_with_rank_correlations() -> None:
    changes = [Change(f"blk.{i}.attn_q.weight", "Q2_K", 0.1 * i, 0.2 * i) for i in range(1, 6)]
    assert render(changes).splitlines()[-1] == "Spearman's rho of 5 changes to Q2_K: 1.000"
    assert render(changes[:1]).count("Spearman") <= 2


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_changes_have_no_correlation(count: int) -> None:
    changes = [Change("blk.0.attn_q.weight", "Q2_K", 0.1, 0.2)] * count
    assert "nan" not in render(changes)
