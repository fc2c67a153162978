"""Pieces of work on a tiny model: each prints its figures, and peers agree with ours where they must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from benchmarks.scale_work import main


@pytest.fixture(scope="module")
def model() -> str:
    return str(tiny.cached_model("llama", hidden=256, intermediate=256, blocks=2))


@pytest.fixture
def work(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: object) -> dict[str, Any]:
        assert main([*map(str, words)]) == 0
        figures: dict[str, Any] = json.loads(capsys.readouterr().out)
        return figures

    return run


def test_the_peer_of_an_export(work: Any, model: str, tmp_path: Path) -> None:
    plain, tokens, out = tmp_path / "plain.gguf", tmp_path / "tokens.npy", tmp_path / "out.gguf"
    assert work("plain", model, plain, "F32")["file_bytes"] == plain.stat().st_size
    count = work("tokens", model, tokens, "--tokens", 512)["tokens"]
    assert np.load(tokens).size == count <= 512
    figures = work("peer-export", plain, tokens, out, "Q3_K_S", "--threads", 1)
    assert figures["file_bytes"] == out.stat().st_size < plain.stat().st_size / 3
    assert figures["tokens"] == count
    assert figures["work_seconds"] == pytest.approx(figures["imatrix"] + figures["quantize"])
    assert work("torch-imatrix", model, tokens)["imatrix"] > 0
    gflop = work("operations", plain, "--tokens", 2000)["gflop"]
    assert gflop["head"] == pytest.approx(2 * work("operations", plain, "--tokens", 1000)["gflop"]["head"])
    assert gflop["H"] == pytest.approx(2000 * 2 * 2 * 7 * 256**2 / 1e9)


def test_both_quantisers_write_the_same_bytes(work: Any, model: str, tmp_path: Path) -> None:
    plain, types = tmp_path / "plain.gguf", tmp_path / "types.json"
    work("plain", model, plain, "F32")
    flags = ("--types", types, "--threads", 1)
    ours = work("quantize-ours", model, tmp_path / "ours.gguf", *flags, "--budget", "3.5bpw")
    peer = work("quantize-peer", plain, tmp_path / "peer.gguf", *flags)
    assert ours["weights"] == peer["weights"]
    assert len(set(json.loads(types.read_text()).values())) > 1


def test_both_ways_to_the_perplexity_drops_agree(work: Any, model: str) -> None:
    ours, naive = (work(name, model, "--tokens", 256, "--threads", 1) for name in ("saliency", "saliency-naive"))
    assert ours["ppl"] == pytest.approx(naive["ppl"], rel=1e-2)
    assert len(ours["drops"]) == 2
    assert ours["drops"] == pytest.approx(naive["drops"], rel=0.1, abs=0.01 * naive["ppl"])
