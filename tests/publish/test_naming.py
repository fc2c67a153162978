"""Names of files by llama.cpp's convention."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from gguf import GGUFValueType, LlamaFileType

from lieq_edge.gguf.container import KeyValue
from lieq_edge.publish.naming import CODEBOOK_PRESETS, K_PRESETS, default_file_name, nearest_preset, size_label


@dataclass
class Tensor:
    shape: tuple[int, ...]
    type: str = "Q4_K"


@dataclass
class Plan:
    model: str = "somewhere/model"
    file_bpw: float = 4.9
    tensors: list[Tensor] = field(default_factory=lambda: [Tensor((135, 1000, 1000))])


def named(model: str, keys: dict[str, str] | None = None, **plan: object) -> str:
    metadata = [KeyValue(key, value, GGUFValueType.STRING) for key, value in (keys or {}).items()]
    return default_file_name(metadata, Plan(model, **plan))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("Qwen/Qwen3-0.6B", 596, "Qwen3-0.6B-Q4_K_M.gguf"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 135, "SmolLM2-135M-Instruct-Q4_K_M.gguf"),
        ("models/SmolLM2-135M-Instruct.Q4_1.gguf", 135, "SmolLM2-135M-Instruct-Q4_K_M.gguf"),
        ("Mistral-7B-Instruct-v0.3-F16.gguf", 7248, "Mistral-7B-Instruct-v0.3-Q4_K_M.gguf"),
        ("C:\\models\\wide\\", 191, "wide-191M-Q4_K_M.gguf"),
        ("TinyLlama 1.1B Chat v1.0", 1100, "TinyLlama-1.1B-Chat-v1.0-Q4_K_M.gguf"),
    ],
)
def test_a_name_has_the_parts_of_the_models(model: str, weights: int, expected: str) -> None:
    assert named(model, tensors=[Tensor((weights, 1000, 1000))]) == expected


def test_the_keys_of_a_file_win_over_its_name() -> None:
    keys = {
        "general.name": "Another 3B",
        "general.basename": "Base Name",
        "general.size_label": "8x7B",
        "general.finetune": "Chat",
        "general.version": "v2",
    }
    assert named("x", keys) == "Base-Name-8x7B-Chat-v2-Q4_K_M.gguf"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\x1b[31m\nb", "con:|?*<>", "\u202egnp", "/", "...", "x" * 999])
def test_a_name_is_one_that_every_system_takes(name: str) -> None:
    for written in (named(name), named("x", {"general.name": name}), named("x", {"general.basename": name})):
        assert re.fullmatch(r"\w[\w.+-]*-Q4_K_M\.gguf", written, re.ASCII), written
        assert len(written) < 240


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(0.5, "Q2_K_S"), (3.2, "Q2_K"), (3.66, "Q3_K_S"), (4.9, "Q4_K_M"), (8.4, "Q8_0"), (32, "F16")],
)
def test_the_nearest_preset_is_taken(bits: float, expected: str) -> None:
    assert nearest_preset(bits) == expected
    assert nearest_preset(K_PRESETS[expected]) == expected


def test_codebook_types_and_other_tables() -> None:
    assert nearest_preset(2.6, main_type="IQ2_XS") == "IQ2_XS"
    assert nearest_preset(3.66, presets={"Q2_K": 3.7, "Q3_K_S": 4.1}) == "Q2_K"
    mixed = [Tensor((9, 1000, 1000), "IQ3_S"), Tensor((1, 1000, 1000), "Q6_K")]
    assert named("Small-10M", tensors=mixed, file_bpw=3.6) == "Small-10M-IQ3_S.gguf"


def test_presets_are_llama_cpps() -> None:
    known = {entry.name.removeprefix("MOSTLY_") for entry in LlamaFileType}
    assert {*K_PRESETS, *CODEBOOK_PRESETS} <= known
    assert list(K_PRESETS.values()) == sorted(K_PRESETS.values())


def test_size_labels() -> None:
    assert [size_label([(n, 10**6)]) for n in (135, 1711, 7248)] == ["135M", "1.7B", "7.2B"]
