"""The check before the work: silent for models that fit, loud and early for one that does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from runner import assert_refused, run
from tiny import cached_model

from lieq_edge.sources import open_source
from lieq_edge.sources.families import FAMILIES
from lieq_edge.sources.families.llama import Llama
from lieq_edge.sources.plain import write_plain
from lieq_edge.validate import parity

FLAGS = ("--budget", "4", "--metric", "first", "--calibration", "none", "--no-validate")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_far_within_the_tolerance(tmp_path: Path, family: str) -> None:
    source = open_source(str(cached_model(family, blocks=3)))
    piece, ids = parity.cut_piece(source)
    assert len(ids) >= 32
    expected, found = parity._logits(piece, ids, tmp_path, 1)
    assert parity._difference(expected, found) < parity._TOLERANCE / 20
    assert list(tmp_path.iterdir()) == []


def test_a_gguf_file_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_plain(path, open_source(str(cached_model("qwen3", tied=False, blocks=3))), "F16")
    parity.check_parity(open_source(str(path)), tmp_path, threads=1)


def unturned(self: Llama, name: str, array: Any, dims: Any) -> Any:
    return array


def test_an_odd_model_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of q and k that keep their places are what a converter that knows no better writes."""
    model, out = cached_model("llama", blocks=3), tmp_path / "o.gguf"
    assert run("export", model, *FLAGS, "--out", out, "--no-cache").returncode == 0
    monkeypatch.setattr(Llama, "to_gguf", unturned)
    done = run("export", model, *FLAGS, "--out", tmp_path / "p.gguf")
    assert_refused(done, "does not compute", "first 2 blocks", "the first block alone differs already", "--no-parity")
    assert "Quantise" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["o.gguf"]
    assert run("export", model, *FLAGS, "--out", tmp_path / "p.gguf", "--no-parity").returncode == 0


@pytest.mark.parametrize("changed", [{"rope_theta": "1e4"}, {"initializer_range": "x"}, {"hidden_act": "swish"}])
def test_settings_that_transformers_cannot_use_are_told(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = Path(shutil.copytree(cached_model("llama"), tmp_path / "m")) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    done = run("export", path.parent, *FLAGS, "--out", tmp_path / "o.gguf")
    if changed == {"hidden_act": "swish"}:  # another name of SiLU
        assert done.returncode == 0, done.stderr
    else:
        assert_refused(done, "fix config.json")


def test_a_piece_shows_every_kind_of_block() -> None:
    class Listed:
        n_blocks = 12

        def __init__(self, **config: Any) -> None:
            self.config = lambda: config

    def blocks(**config: Any) -> int:
        return parity._blocks_to_see(Listed(**config))  # type: ignore[arg-type]

    sliding = ["sliding_attention"] * 5 + ["full_attention"]
    assert blocks(layer_types=sliding * 2) == 6
    assert blocks(no_rope_layers=[1, 1, 1, 0] * 3, other=[1, 2]) == 4
    assert blocks(layer_types=["full_attention"] * 12) == 2
    assert blocks(layer_types=["a"] * 11 + ["b"]) == 8


def test_lists_by_block_are_cut_with_the_blocks() -> None:
    source = open_source(str(cached_model("llama", blocks=3, tied=False)))
    source._config["per_block"] = [1, 2, 3]  # type: ignore[attr-defined]
    piece = parity.Piece(source, 2, [5, 7, 9])
    assert (piece.config()["per_block"], piece.config()["num_hidden_layers"]) == ([1, 2], 2)
    names = {spec.name: spec.shape for spec in piece.tensors()}
    assert names["token_embd.weight"] == names["output.weight"] == (3, 64)
    assert "blk.1.attn_q.weight" in names
    assert "blk.2.attn_q.weight" not in names
    assert (piece.read("token_embd.weight") == source.read("token_embd.weight")[[5, 7, 9]]).all()
