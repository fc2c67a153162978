"""Predicted memory against what llama.cpp allocates, on shapes with shared heads, windows, experts and tied heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lieq_edge.device.memory import WeightMemory, least_loading, run_memory, weight_memory
from lieq_edge.device.pace import Matrix, Work, read_work
from lieq_edge.device.repack import Instructions, is_repacked, own_instructions
from lieq_edge.errors import InputError
from lieq_edge.gguf.splits import read_model
from lieq_edge.gguf.types import TYPES
from lieq_edge.llama.memory import measure_memory, simulate_contexts

# Large enough for the rounding of llama.cpp's log, to a hundredth of a MiB, to be less than a per cent.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden": 512, "intermediate": 1024, "blocks": 4, "heads": (8, 2)},
    "qwen2": {"hidden": 384, "intermediate": 1024, "blocks": 3, "heads": (6, 6)},
    "qwen3": {"hidden": 512, "intermediate": 768, "blocks": 5, "heads": (8, 4)},
    "gemma3_text": {"hidden": 512, "intermediate": 1024, "blocks": 7, "heads": (4, 1)},
    "qwen3_moe": {"hidden": 512, "intermediate": 512, "blocks": 2, "heads": (8, 2)},
}
CONTEXTS = (256, 1024, 3072)


def near(predicted: float, real: float) -> bool:
    return abs(predicted - real) <= 0.05 * real


@pytest.mark.parametrize("family", SHAPES)
def test_buffers_are_within_five_per_cent_of_what_is_allocated(family: str, tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf(family, type="F16", **SHAPES[family])
    simulated = simulate_contexts(path, [(tokens, "f16") for tokens in CONTEXTS])
    weights = weight_memory(*read_work(path), "none")
    for tokens, predicted in zip(CONTEXTS, simulated, strict=True):
        real = measure_memory(path, tokens, threads=1)
        assert near(predicted.cache, real.context.cache)
        assert near(predicted.compute, real.context.compute)
        assert near(weights.mapped, sum(real.weights.values()))


@pytest.mark.parametrize(("kind", "bits"), [("f16", 16), ("q8_0", 8.5), ("q4_0", 4.5)])
def test_keys_and_values_count_shared_heads(kind: str, bits: float, tiny_gguf: Callable[..., Path]) -> None:
    shape = SHAPES["llama"]
    path = tiny_gguf("llama", type="F16", **shape)
    (made,) = simulate_contexts(path, [(1024, kind)])
    head = shape["hidden"] // shape["heads"][0]
    assert near(made.cache, 2 * shape["blocks"] * 1024 * shape["heads"][1] * head * bits / 8)


def test_windowed_blocks_store_a_window_only(tiny_gguf: Callable[..., Path]) -> None:
    path = tiny_gguf("gemma3_text", type="F16", **SHAPES["gemma3_text"])
    short, long = simulate_contexts(path, [(1024, "f16"), (8192, "f16")])
    assert long.cache < 3 * short.cache  # one block of seven sees all of the context


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("repacked", [True, False])
def test_every_way_to_load_is_predicted(mapped: bool, repacked: bool, quantised: Path, here: Instructions) -> None:
    real = sum(measure_memory(quantised, 256, threads=1, mapped=mapped, repacked=repacked).weights.values())
    weights = weight_memory(*read_work(quantised), here if repacked else "none")
    assert near(weights.mapped if mapped else weights.read, real)
    assert weights.has_copies == (repacked and here != "none")


def test_a_tied_head_with_another_layout_is_stored_twice() -> None:
    tensors = [Matrix("token_embd.weight", (256, 256), "Q4_K"), Matrix("blk.0.ffn_up.weight", (256, 256), "Q4_K")]
    one = TYPES["Q4_K"].nbytes((256, 256))
    tied = weight_memory(tensors, Work(tied=True, used=1.0, blocks=1), "neon-dotprod")
    assert tied == WeightMemory(mapped=4 * one, read=3 * one, plain=2 * one)
    untied = weight_memory(tensors, Work(tied=False, used=1.0, blocks=1), "neon-dotprod")
    assert untied == WeightMemory(mapped=3 * one, read=2 * one, plain=2 * one)


def test_the_least_loss_of_speed_comes_first() -> None:
    weights = WeightMemory(mapped=30, read=20, plain=15)
    assert [least_loading(weights, room) for room in (30, 29, 20, 19, 15, 14)] == [
        "mapped", "read", "read", "plain", "plain", None
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "rows", "instructions", "expected"),
    [
        ("Q4_K", 8, "neon-dotprod", True),
        ("Q4_K", 12, "neon-dotprod", False),
        ("Q8_0", 12, "neon-i8mm", True),
        ("Q4_K", 8, "neon", False),
        ("Q3_K", 8, "neon-dotprod", False),
        ("Q2_K", 8, "neon-i8mm", False),
        ("Q2_K", 8, "avx512", True),
        ("Q2_K", 8, "avx2", False),
        ("Q6_K", 8, "avx512", False),
        ("IQ4_XS", 8, "neon-i8mm", False),
    ],
)
def test_types_with_another_layout(kind: str, rows: int, instructions: Instructions, expected: bool) -> None:
    assert is_repacked(kind, (rows, 256), instructions) is expected


@pytest.mark.demo
def test_the_whole_process_is_within_five_per_cent(here: Instructions) -> None:
    from lieq_edge.sources import demo_path

    path = demo_path()
    header = read_model(path).header
    tokens, merges = (len(header.get(f"tokenizer.ggml.{name}")) for name in ("tokens", "merges"))
    (context,) = simulate_contexts(path, [(1024, "f16")])
    weights = weight_memory(*read_work(path), here)
    real = measure_memory(path, 1024, threads=1)
    assert near(weights.mapped + context.total + run_memory(tokens, merges), real.resident)


def test_refusals(tmp_path: Path, tiny_gguf: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no key-value cache of type q3_k"):
        simulate_contexts(tiny_gguf(), [(256, "q3_k")])
    with pytest.raises(InputError, match=r"none\.gguf"):
        simulate_contexts(tmp_path / "none.gguf", [(256, "f16")])


@pytest.fixture(scope="module")
def quantised(tiny_gguf: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied model whose matrices are Q4_0, its head Q8_0."""
    from lieq_edge.llama.quantize import Preset, quantize

    original = tiny_gguf("llama", type="F16", **SHAPES["llama"])
    out = tmp_path_factory.mktemp("quantised") / "q4_0.gguf"
    quantize(original, out, Preset("Q4_0", 2, pure=True), threads=1)
    return out


@pytest.fixture(scope="module")
def here() -> Instructions:
    return own_instructions()
