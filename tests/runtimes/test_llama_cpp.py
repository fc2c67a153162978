"""Measuring through llama.cpp: as through transformers where both can, and soundly where only llama.cpp can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import BLOCKS, EXPERTS, HEADS, HIDDEN, KV_HEADS, foreign_model
from logits import export_float32, llama_logits
from measuring import analyze
from tiny import cached_model

from lieq_edge.blockwise.model import BlockModel
from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.geometry import GeometryPass
from lieq_edge.evidence.blocks.request import BlockRequest
from lieq_edge.runtimes import LlamaRuntime, TorchRuntime
from lieq_edge.runtimes.base import NETWORK
from lieq_edge.runtimes.llama_passes import generate, observed_geometry
from lieq_edge.runtimes.observe import observe
from lieq_edge.sources import Source, open_source
from lieq_edge.store import Run
from lieq_edge.system.progress import Terminal, receive_with
from lieq_edge.texts.self_written import self_windows
from lieq_edge.texts.windows import Windows

CACHE_OF_16_BITS = 2e-3
"""llama.cpp keeps keys and values in 16 bits."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A model that transformers and llama.cpp both run, in float32."""
    path = tmp_path_factory.mktemp("llama") / "llama.gguf"
    return open_source(str(export_float32(open_source(str(cached_model("llama"))), path)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("foreign")


def some_tokens(n: int, length: int) -> Windows:
    return np.random.default_rng(0).integers(5, 300, (n, length))


def test_importance_is_that_of_transformers(llama: Source) -> None:
    tokens = some_tokens(3, 48)
    expected = TorchRuntime(llama).measure_importances(tokens, run=Run(None), bfloat16=False)
    found = LlamaRuntime(llama).measure_importances(tokens, run=Run(None))
    assert found.keys() == expected.keys()
    for name, vector in expected.items():
        assert np.allclose(found[name], vector, rtol=CACHE_OF_16_BITS * 5, atol=CACHE_OF_16_BITS * vector.mean()), name


@pytest.mark.parametrize("projections", ["qkv", "all"])
def test_geometry_is_that_of_transformers(llama: Source, projections: str) -> None:
    tokens = some_tokens(1, 64)
    with torch.no_grad():
        model = BlockModel(llama)
        geometry = GeometryPass(model, torch.from_numpy(tokens), projections=projections, seeds=(0, 1))
        for index in range(model.n_blocks):
            with model.block(index) as module:
                geometry.step(module, index)
    found = observed_geometry(llama, BlockRequest(tokens, None, projections, seeds=(0, 1)), None)
    for expected, block in zip(geometry.results, found, strict=True):
        assert list(block) == list(expected)
        for role, values in expected.items():
            assert torch.allclose(block[role].compactness_gain, values.compactness_gain, atol=CACHE_OF_16_BITS)
            assert torch.allclose(block[role].energy_gain, values.energy_gain, atol=CACHE_OF_16_BITS)


def test_text_is_drawn_from_the_logits_of_the_whole_sequence(llama: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the likeliest token in the place of a drawn one, each must follow from all before it."""
    monkeypatch.setattr("lieq_edge.runtimes.llama_passes.sample", lambda logits, _: logits.argmax(-1))
    openings = [[1, 20, 30], [1], [1, 7]]
    ids = generate(llama, openings, 12, seed=0, stop=frozenset())
    assert llama.gguf_path is not None
    for row, opening in zip(ids.tolist(), openings, strict=True):
        assert row[: len(opening)] == opening
        logits = llama_logits(llama.gguf_path, row)
        assert row[len(opening) :] == logits.argmax(-1)[len(opening) - 1 : -1].tolist()


def test_text_of_the_same_seed_is_the_same(folder: Path) -> None:
    source = open_source(str(foreign_model(folder / "text.gguf", "internlm2")))
    one, info = self_windows(source, tokens=64, context=16, seed=3, write=LlamaRuntime(source, threads=1).write_text)
    again, _ = self_windows(source, tokens=64, context=16, seed=3, write=LlamaRuntime(source, threads=2).write_text)
    other, _ = self_windows(source, tokens=64, context=16, seed=4, write=LlamaRuntime(source).write_text)
    assert one.shape == (4, 16)
    assert info.tokens == 64
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_experts_have_importance_of_their_own(folder: Path) -> None:
    source = open_source(str(foreign_model(folder / "mixture.gguf", "llama", type_name="F32")))
    tokens = some_tokens(2, 40)
    found = LlamaRuntime(source).measure_importances(tokens, run=Run(None))
    assert found["blk.0.ffn_down_exps.weight"].shape == (EXPERTS, HIDDEN)
    assert "blk.0.ffn_gate_inp.weight" not in found
    # Expert by expert by hand: what the first block's experts receive is what its router receives.
    routed: list[np.ndarray] = []
    names = frozenset({"blk.0.ffn_gate_inp.weight"})
    observe(source, tokens, names, lambda _, x, __: routed.append(x.copy()), "", None)
    x = np.concatenate(routed)
    chosen = np.argsort(-(x @ source.read("blk.0.ffn_gate_inp.weight").T), axis=1)[:, :2]
    for expert in range(EXPERTS):
        own = x[(chosen == expert).any(1)]
        assert np.allclose(found["blk.0.ffn_up_exps.weight"][expert], (own**2).mean(0), rtol=1e-4)


def test_an_expert_that_no_token_reaches_counts_like_the_others(folder: Path) -> None:
    source = open_source(str(foreign_model(folder / "mixture.gguf", "llama", type_name="F32")))
    found = LlamaRuntime(source).measure_importances(some_tokens(1, 1), run=Run(None))
    vectors = found["blk.0.ffn_up_exps.weight"]
    assert (vectors == vectors[0]).all()
    assert vectors.min() > 0


@pytest.mark.parametrize("architecture", ["internlm2", "starcoder"])
def test_heads_are_counted_from_the_keys(folder: Path, architecture: str) -> None:
    source = open_source(str(foreign_model(folder / f"{architecture}.gguf", architecture)))
    results = observed_geometry(source, BlockRequest(some_tokens(1, 64), None, "qkv", seeds=(0,)), None)
    assert len(results) == BLOCKS
    for block in results:
        heads = {role: len(found.compactness_gain) for role, found in block.items()}
        assert heads == {"attn_q": HEADS, "attn_k": KV_HEADS, "attn_v": KV_HEADS}


def _plant_concentrated_keys(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys of block 1 become the same, within its fused matrix."""
    read = source.read

    def planted(name: str) -> np.ndarray:
        array = read(name).copy()
        if name == "blk.1.attn_qkv.weight":
            keys = slice(HIDDEN, HIDDEN + HIDDEN // HEADS * KV_HEADS)
            array[keys] = array[HIDDEN]
        return array

    monkeypatch.setattr(source, "read", planted)


def test_concentrated_projections_stand_out_in_a_fused_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(foreign_model(folder / "starcoder.gguf", "starcoder")))
    _plant_concentrated_keys(source, monkeypatch)
    results = observed_geometry(source, BlockRequest(some_tokens(1, 64), None, "qkv", seeds=(0,)), None)
    gains = {(i, role): float(g.compactness_gain.min()) for i, block in enumerate(results) for role, g in block.items()}
    assert gains.pop((1, "attn_k")) > 0.9
    assert max(gains.values()) < 0.2


def test_what_llama_cpp_cannot_measure_is_refused_with_what_it_can(folder: Path) -> None:
    source = open_source(str(foreign_model(folder / "internlm2.gguf", "internlm2")))
    with pytest.raises(InputError, match="--metric geometry"):
        LlamaRuntime(source).require("saliency")
    with pytest.raises(InputError, match="--baseline projection"):
        LlamaRuntime(source).require(NETWORK)
    LlamaRuntime(source).require("geometry")
    with pytest.raises(InputError, match=r"llama\.cpp only"):
        BlockModel(source)


def test_a_layout_that_is_not_known_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lieq_edge.llama import layout

    source = open_source(str(foreign_model(folder / "internlm2.gguf", "internlm2")))
    monkeypatch.setattr(layout, "_checked", False)
    monkeypatch.setattr(layout, "prod", lambda _: -1)
    with pytest.raises(InputError, match="another layout"):
        LlamaRuntime(source).measure_importances(some_tokens(1, 8), run=Run(None))


def test_what_cannot_be_seen_is_measured_on_the_weights_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lieq_edge.llama import layout

    source = open_source(str(foreign_model(folder / "starcoder.gguf", "starcoder")))
    seen = analyze(source, measurements={"geometry"}, probe_tokens=64)
    assert (seen.inputs, source.warnings) == ("llama.cpp", ())
    _plant_concentrated_keys(source, monkeypatch)
    monkeypatch.setattr(layout, "_checked", False)
    monkeypatch.setattr(layout, "prod", lambda _: -1)
    with receive_with(Terminal()):
        found = analyze(source, measurements={"geometry"}, probe_tokens=64)
    assert (found.inputs, found.probe) == ("white", None)
    assert "weights alone (white inputs)" in source.warnings[0]
    assert source.warnings[0] in capsys.readouterr().err
    gains = {(block.index, role): gain for block in found.blocks for role, gain in block.projections.items()}
    assert len(gains) == 3 * BLOCKS
    assert gains.pop((1, "attn_k")) > 0.9
    assert max(map(abs, gains.values())) < 0.2


def test_white_inputs_give_the_spectrum_of_the_weights(llama: Source) -> None:
    """Many random inputs come close to it."""
    from lieq_edge.evidence.blocks.geometry import head_spectra
    from lieq_edge.evidence.blocks.white_inputs import measure_weights

    weight = torch.from_numpy(llama.read("blk.0.attn_q.weight"))
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((100_000, 64), np.float32)) @ weight.T
    assert torch.allclose(head_spectra(z, 16), head_spectra(weight.T, 16), atol=3e-3)
    results = measure_weights(llama, projections="all", seeds=(0,))
    assert list(results[0]) == sorted(results[0])
    assert {"attn_q", "ffn_down"} < set(results[0])
