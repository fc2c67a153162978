"""Names of files by llama.cpp's convention."""

from __future__ import annotations

import re

import pytest
from gguf import GGUFValueType

from lieq_edge.gguf.container import KeyValue
from lieq_edge.publish.naming import ENCODINGS, PRESET_BITS, default_file_name, size_label


def named(model: str, keys: dict[str, str] | None = None, *, weights: int = 135, label: str = "Q4_K_M") -> str:
    metadata = [KeyValue(key, value, GGUFValueType.STRING) for key, value in (keys or {}).items()]
    return default_file_name(metadata, model, [(weights, 1000, 1000)], label)


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
    assert named(model, weights=weights) == expected


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


def test_the_label_is_last_where_programs_look_for_it() -> None:
    """The hub's pages take it by this expression (parseGGUFQuantLabel of @huggingface/gguf, shortened)."""
    for label in PRESET_BITS:
        name = named("org/Qwen3-0.6B", label=label)
        found = re.findall(r"(?:Q[1-8]_[KO01](?:_(?:XXS|XS|S|M|L|XL))?|Q8_0|Q[2-8]_K|B?F16|F32)(?=\.gguf$)", name)
        assert found == [label], name


def test_presets_are_llama_cpps() -> None:
    assert {*PRESET_BITS, "IQ4_NL", "Q4_0"} <= ENCODINGS
    assert list(PRESET_BITS.values()) == sorted(PRESET_BITS.values())


def test_size_labels() -> None:
    assert [size_label([(n, 10**6)]) for n in (135, 1711, 7248)] == ["135M", "1.7B", "7.2B"]
