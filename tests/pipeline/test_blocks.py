"""The whole measurement: one record, the same in any order of work, saved and drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from measuring import analyze
from memory_source import MemorySource, tiny_lm

from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.correlate import spearman
from lieq_edge.evidence.blocks.plot import plot_layers
from lieq_edge.evidence.blocks.records import Diagnostics, describe
from lieq_edge.pipeline import blocks as blocks_module
from lieq_edge.system.jsonio import load_json, save_json


@pytest.fixture(scope="module")
def measured() -> Diagnostics:
    return analyze(MemorySource(tiny_lm()), probe_tokens=96, saliency_tokens=128)


def test_both_metrics_together_equal_each_alone(measured: Diagnostics) -> None:
    geometry = analyze(MemorySource(tiny_lm()), measurements={"geometry"}, probe_tokens=96)
    saliency = analyze(MemorySource(tiny_lm()), measurements={"saliency"}, saliency_tokens=128)
    assert len(measured.blocks) == 3
    for both, first, second in zip(measured.blocks, geometry.blocks, saliency.blocks, strict=True):
        assert both.compactness_gain == first.compactness_gain
        assert both.energy_gain == first.energy_gain
        assert both.projections == first.projections
        assert set(both.projections) == {"attn_q", "attn_k", "attn_v"}
        assert both.delta_ppl == second.delta_ppl
        assert first.delta_ppl is None
        assert second.compactness_gain is None
    assert geometry.base_ppl is None
    assert geometry.correlations == {}
    assert saliency.probe is None
    assert set(measured.correlations) == {"compactness_gain", "energy_gain"}
    assert measured.probe is not None
    assert measured.probe.tokens == 96
    assert measured.saliency_text is not None
    assert measured.saliency_text.tokens == 128
    assert measured.seeds == (0, 1, 2)


def test_saliency_in_several_sweeps_gives_the_same(measured: Diagnostics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieq_edge.evidence.blocks.saliency.windows_at_once", lambda *_: 1)
    monkeypatch.setattr(blocks_module, "SALIENCY_CONTEXT", 32)
    pieces = analyze(MemorySource(tiny_lm()), probe_tokens=96, saliency_tokens=128)
    monkeypatch.setattr("lieq_edge.evidence.blocks.saliency.windows_at_once", lambda *_: 99)
    whole = analyze(MemorySource(tiny_lm()), probe_tokens=96, saliency_tokens=128)
    assert pieces.base_ppl == pytest.approx(whole.base_ppl, rel=1e-6)
    for first, second, third in zip(pieces.blocks, whole.blocks, measured.blocks, strict=True):
        assert first.delta_ppl == pytest.approx(second.delta_ppl, rel=1e-3)
        assert first.compactness_gain == third.compactness_gain


def test_saved_measurements_come_back(measured: Diagnostics, tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.json"
    save_json(measured, path)
    assert load_json(Diagnostics, path) == measured


def test_own_texts_are_read_and_named(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("My own words, again and again. " * 50)
    source = MemorySource(tiny_lm())
    found = analyze(source, measurements={"geometry"}, probe_text=file, probe_tokens=64)
    assert found.probe is not None
    assert found.probe.name == "own.txt"
    with pytest.raises(InputError, match="fewer than one window"):
        analyze(source, measurements={"geometry"}, probe_text=file, probe_tokens=10_000)


def test_describe_needs_no_torch() -> None:
    found = describe(MemorySource(tiny_lm()))
    assert found.blocks[2].index == 2
    assert found.blocks[2].compactness_gain is None
    assert found.tensors[0].name == "token_embd.weight"
    code = "import sys, lieq_edge.evidence.blocks.table, lieq_edge.pipeline.job; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_spearman() -> None:
    assert spearman([1.0, 2.0, 3.0, 9.0], [2.0, 4.0, 6.0, 7.0]) == pytest.approx(1.0)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    # Ties share the average rank: ranks (1.5, 1.5, 3) against (1, 2, 3).
    assert spearman([0.0, 0.0, 1.0], [1.0, 2.0, 3.0]) == pytest.approx(3**0.5 / 2)
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_profile_is_drawn_the_same_twice(measured: Diagnostics, tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot_layers(measured, tmp_path / "a.png")
    plot_layers(measured, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = imread(tmp_path / "a.png")
    assert picture.shape[0] > 500
    assert picture[..., :3].std() > 0.05
    only = analyze(MemorySource(tiny_lm()), measurements={"geometry"}, probe_tokens=96)
    plot_layers(only, tmp_path / "c.png")
    assert imread(tmp_path / "c.png").shape[0] < picture.shape[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]
