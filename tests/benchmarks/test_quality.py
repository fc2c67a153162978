"""Every method of the benchmark writes a file of a tiny model that is scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from benchmarks import quality


def test_all_methods_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    out, text = tmp_path / "out", tmp_path / "text"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--work", str(tmp_path / "work")]
    words += ["--context", "64", "--chunks", "2", "--calibration-tokens", "2048", "--presets", "Q4_K_S"]
    words += ["--sizes", "Q3_K_M", "--control-sizes", "Q3_K_M", "--metrics", "geometry,random", "--random-seeds", "1"]
    assert quality.main(words) == 0
    rows = {(row["method"], row["size"]): row for row in json.loads(out.with_suffix(".json").read_text())}
    limit = rows["preset", "Q3_K_M"]["file_bytes"]
    methods = {method for method, size in rows if size == "Q3_K_M"}
    ours = {"loss + feedback", "loss + feedback-once", "loss + imatrix"}
    ours |= {f"{metric} + {rounding}" for metric in ("geometry", "random 0") for rounding in ("imatrix", "feedback")}
    assert methods == ours | {"preset", "lagrange"}
    assert all(rows[method, "Q3_K_M"]["file_bytes"] <= limit for method in ours)
    roundings = ("imatrix", "feedback", "feedback-once")
    uniform = [rows[f"uniform + {rounding}", kind] for rounding in roundings for kind in ("Q2_K", "Q3_K")]
    assert all(coarse["kld"] > fine["kld"] for coarse, fine in zip(uniform[::2], uniform[1::2], strict=True))
    assert all(row["predicted"] > 0 for row in rows.values() if row["method"].startswith("loss"))
    assert "| loss + feedback | preset |" in out.with_suffix(".md").read_text(encoding="utf-8")
    assert out.with_suffix(".png").stat().st_size > 1000
    # A second run finds every row.
    monkeypatch.setattr(quality, "write_model", lambda *_, **__: pytest.fail("the row exists"))
    assert quality.main(words) == 0
