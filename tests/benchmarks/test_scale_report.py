"""Targets, fits and tables from samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.process_tree import Phase
from benchmarks.scale import QUICK_SIZES
from benchmarks.scale_report import exponent, render, results
from benchmarks.scale_rows import Setup
from benchmarks.shapes import SHAPES, count_parameters
from benchmarks.turns import Sample, Samples

GB = 10**9


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path, QUICK_SIZES, quick=True)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return Samples(tmp_path / "out.json")


def sample(seconds: float, rss: float = 1.0, **report: object) -> Sample:
    phases = (
        Phase("Quantise and write", seconds / 2, int(rss * 0.8 * GB), int(rss * 0.4 * GB)),
        Phase("end", seconds / 2, int(rss * GB), int(rss * 0.3 * GB)),
    )
    return Sample("python", "abc", 0.1, seconds, int(rss * GB), int(rss * 0.5 * GB), phases, dict(report))


@pytest.mark.parametrize("power", [0.0, 0.37, 1.0, 1.5])
def test_the_exponent_is_found(power: float) -> None:
    assert exponent([(x, 3.0 * x**power) for x in (0.6, 1.5, 4.0)]) == pytest.approx(power)


def test_an_exponent_needs_two_sizes() -> None:
    assert exponent([]) is None
    assert exponent([(1.0, 2.0), (1.0, 3.0)]) is None


def test_results_and_tables(setup: Setup, samples: Samples) -> None:
    assert all(result.value is None for result in results(setup, samples))
    assert "not measured" in render(setup, samples)
    for seconds in (10.0, 12.0, 50.0):
        report = {"seconds": {"loss weights": seconds / 2, "quantize and write": 1.0}}
        samples.add("wide/quality", replace(sample(seconds), report=report))
        samples.add("wide/peer", sample(9.0, work_seconds=8.0, file_bytes=5_000_000))
    for size, shape in setup.shapes.items():
        samples.add(f"memory/geometry/{size}", sample(5.0, rss=2e-4 * count_parameters(SHAPES[shape]) ** 0.5))
    drops = {"work_seconds": 1.0, "drops": [1.0, 2.0]}
    samples.add("saliency/ours", sample(3.0, **drops))
    samples.add("saliency/naive", sample(4.0, **{**drops, "work_seconds": 2.0}))
    for name in ("ours", "peer"):
        samples.add(f"quantize/{name}", sample(3.0, work_seconds=2.0, weights="digest"))
    samples.add("hardware", sample(1.0, **{"float32": 100.0, "bfloat16": 400.0, "float32 X^T X": 50.0}))
    gflop = {"blocks": 200.0, "attention": 10.0, "head": 40.0, "H": 100.0}
    samples.add("where/operations", sample(1.0, tokens=64, gflop=gflop))
    profile = {"kinds": {"forward": 8.0, "H": 4.0}, "unknown": {"a.py:f": 0.7}}
    samples.add("where/quality", sample(12.0, profile=profile))

    by_what = {result.what: result for result in results(setup, samples)}
    quality = by_what["quality export over llama.cpp's imatrix + preset"]
    assert quality.value == pytest.approx(12.0 / 8.0)
    assert quality.met is True
    assert by_what["exponent of peak memory over parameters"].value == pytest.approx(0.5)
    assert by_what["perplexity drop of all blocks over naive runs"].value == pytest.approx(0.5)
    assert "the same bytes" in next(result.note for result in by_what.values() if result.row == "quantize")
    assert by_what["geometry analysis, 1.5B"].met is None
    text = render(setup, samples)
    assert "| wide/quality | 12.0 | 10.0, 12.0, 50.0 |" in text
    assert "| loss weights | 6.0 |" in text
    assert "| forward | 8.0 | 66.7 % | 4.0 at float32, 16.0 at bfloat16 |" in text
    assert "| H | 4.0 | 33.3 % | 2.0 at float32 X^T X |" in text
    assert "a.py:f 0.7" in text
    assert "Memory by stage: memory/geometry/4b" in text
