"""The whole shootout on a tiny model, and its statistics on figures that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from benchmarks import quality, shootout
from benchmarks.internals import METRIC_NAMES, ROUNDERS
from benchmarks.quality_report import Row
from benchmarks.shootout_report import beaten, by_method, metrics_part, ranking, ratio


def row(method: str, size: str, *klds: float) -> Row:
    return Row(
        method=method,
        size=size,
        file_bytes=1000,
        block_bpw=3.0,
        seconds=1.0,
        peak_rss_bytes=1,
        predicted=None,
        ppl=10.0,
        ppl_se=0.1,
        kld=float(np.mean(klds)),
        kld_se=0.01,
        kld_p99=1.0,
        top1=0.5,
        decode_rate=1.0,
        window_klds=list(klds),
    )


ROWS = [
    row("random 0 + imatrix", "Q2_K", 1.0, 2.0),
    row("random 1 + imatrix", "Q2_K", 3.0, 6.0),
    row("geometry + imatrix", "Q2_K", 1.0, 2.0),
    row("saliency + imatrix", "Q2_K", 0.2, 0.4),
    row("last + imatrix", "Q2_K", 8.0, 16.0),
    row("loss + feedback", "Q2_K", 0.1, 0.1),
    row("preset", "Q4_K_M", 0.1, 0.1),
]


def test_the_ratio_is_that_of_paired_windows() -> None:
    methods = by_method(ROWS, ["Q2_K"])
    assert "preset" not in methods
    assert [each.method for each in methods["random + imatrix"]["Q2_K"]] == ["random 0 + imatrix", "random 1 + imatrix"]
    # The windows differ by two, the ratios do not.
    assert ratio(methods["geometry + imatrix"], methods["random + imatrix"]) == pytest.approx((0.5, 0.0))
    mean, error = ratio(methods["loss + feedback"], methods["geometry + imatrix"]) or (0, 0)
    assert mean == pytest.approx(0.1 / np.sqrt(2))
    assert error == pytest.approx(mean * np.log(2) / 2)
    assert ratio(methods["loss + feedback"], {}) is None
    assert beaten(methods["geometry + imatrix"], methods["random + imatrix"]) == (1, 2)


def test_methods_are_ranked_and_judged_against_chance() -> None:
    methods = by_method(ROWS, ["Q2_K"])
    lines = ranking(methods, "random + imatrix", ["Q2_K"])
    assert [line[0].split(" + ")[0] for line in lines] == ["loss", "saliency", "geometry", "random", "last"]
    assert [line[1] for line in lines] == ["1", "2", "3", "4", "5"]
    assert lines[3][2:] == ["3.0000 ± 2.1213 (sd)", "1"]
    tables, verdict = metrics_part(methods, "imatrix", ["Q2_K"])
    assert "| geometry | 2 | 1.5000 ± 0.0100 | 0.500 ± 0.000 | 0 of 2 |" not in tables
    assert "| geometry | 2 | 1.5000 ± 0.0100 | 0.500 ± 0.000 | 1 of 2 |" in tables
    assert "every random file of their size: saliency (0.10 ± 0.00)." in verdict
    assert "worse than others: geometry (0.50 ± 0.00)." in verdict
    assert "The seeds scatter by 71 % at Q2_K" in verdict
    assert "Worse than every random file: last (4.00 ± 0.00)." in verdict
    assert metrics_part(methods, "feedback", ["Q2_K"]) == []


def test_a_size_at_which_scores_make_no_difference_does_not_count() -> None:
    alike = [row(f"{metric} + imatrix", "Q4_K_M", 0.5, 0.5) for metric in ("random 0", "random 1", "geometry")]
    better = row("loss + imatrix", "Q4_K_M", 0.1, 0.1)
    methods = by_method([*ROWS, *alike, better], ["Q2_K", "Q4_K_M"])
    tables, *_, note = metrics_part(methods, "imatrix", ["Q2_K", "Q4_K_M"])
    assert "| geometry | 2 | 1.5000 ± 0.0100 | 0.5000 ± 0.0100 | 0.500 ± 0.000 | 1 of 2 |" in tables
    assert note.startswith("At Q4_K_M every block has the most bits")


def test_all_of_it_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2)
    out, text = tmp_path / "out", tmp_path / "text"
    text.write_text(tiny.sample_text(2000, seed=5), encoding="utf-8")
    words = [str(model), "--text", str(text), "--out", str(out), "--work", str(tmp_path / "work")]
    words += ["--context", "64", "--chunks", "3", "--calibration-tokens", "2048", "--sizes", "Q3_K_M"]
    words += ["--random-seeds", "2"]
    assert shootout.main(words) == 0
    rows = {(entry["method"], entry["size"]): entry for entry in json.loads(out.with_suffix(".json").read_text())}
    names = {method for method, size in rows if size == "Q3_K_M"}
    metrics = ({*METRIC_NAMES, "energy"} - {"random"}) | {"random 0", "random 1"}
    ours = {f"{metric} + imatrix" for metric in metrics} | {f"loss + {rounding}" for rounding in ROUNDERS}
    assert names == ours | {"preset", "lagrange"}
    assert all(rows[name, "Q3_K_M"]["file_bytes"] <= rows["preset", "Q3_K_M"]["file_bytes"] for name in ours)
    for entry in rows.values():
        assert len(entry["window_klds"]) == 3
        assert np.mean(entry["window_klds"]) == pytest.approx(entry["kld"], rel=1e-4)
    physical, dense = rows["ptqtp", "PTQTP"], rows["ptqtp", "PTQTP, dense"]
    assert (physical["block_bpw"], physical["kld"]) == (4.25, dense["kld"])
    assert dense["file_bytes"] < physical["file_bytes"]
    peers = {"ptqtp", "lagrange", "all IQ4_XS", "geometry + imatrix", "loss + feedback-once"}
    assert {method for method, size in rows if size == "PTQTP"} >= peers
    assert rows["all IQ4_XS", "PTQTP"]["block_bpw"] == rows["all IQ4_XS, no importance", "PTQTP"]["block_bpw"] == 4.25
    dense_peers = {method for method, size in rows if size == "PTQTP, dense" and method.startswith("all")}
    assert dense_peers == {"all IQ3_S", "all Q3_K, no importance"}
    assert rows["all Q3_K, no importance", "PTQTP, dense"]["block_bpw"] == 3.4375
    assert abs(rows["all IQ4_XS", "PTQTP"]["file_bytes"] / physical["file_bytes"] - 1) < 0.05
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"| {rounding} |" in page for rounding in ROUNDERS)
    assert all(part in page for part in ("## Metrics", "| lagrange |", "| **ptqtp** |", "--calibration-tokens 2048"))
    assert out.with_suffix(".png").stat().st_size > 1000
    # A second run finds every row, and one with other settings is refused.
    monkeypatch.setattr(quality, "write_model", lambda *_, **__: pytest.fail("the row exists"))
    assert shootout.main(words) == 0
    assert shootout.main([*words, "--chunks", "2"]) == 2
