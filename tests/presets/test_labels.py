"""The preset that a mixed file is named after."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
from gguf import LlamaFileType
from tiny import cached_model

from lieq_edge.errors import InputError
from lieq_edge.gguf.header import read_header
from lieq_edge.presets import labels
from lieq_edge.presets.labels import LABEL_FILE_TYPES, label_of, nearest_label
from lieq_edge.presets.make import make_preset
from lieq_edge.presets.names import K_LABELS, NARROW_LABELS
from lieq_edge.presets.sizes import preset_bits
from lieq_edge.sources import Source, open_source

WIDE: dict[str, Any] = {"hidden": 256, "intermediate": 512, "heads": (4, 2)}
# Ollama's list of what general.file_type may be (fs/ggml/type.go), without types of whole files.
OLLAMA = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L"}
OLLAMA |= {"Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "F16"}


@pytest.fixture
def source() -> Source:
    return open_source(str(cached_model("llama", **WIDE)))


def test_labels_are_those_that_every_program_shows() -> None:
    assert {*K_LABELS, *NARROW_LABELS, "F16"} == OLLAMA
    for name in OLLAMA:
        assert LABEL_FILE_TYPES[name] == LlamaFileType[f"MOSTLY_{name}"]


def test_bits_are_those_of_the_written_files(source: Source, tmp_path: Path) -> None:
    found = preset_bits(source, ("Q2_K", "Q4_K_M"))
    for name, bits in found.items():
        make_preset(source, name, tmp_path / f"{name}.gguf", None, threads=1)
        tensors = read_header(tmp_path / f"{name}.gguf").tensors
        weights = sum(prod(tensor.shape) for tensor in tensors)
        assert bits == pytest.approx(8 * sum(tensor.nbytes for tensor in tensors) / weights)


def test_a_file_of_a_presets_size_has_its_label(source: Source) -> None:
    sizes = preset_bits(source, K_LABELS)
    for name, bits in sizes.items():
        same = [other for other, value in sizes.items() if value == bits]
        assert label_of(source, bits, "90MB") in same
        assert name in same
    assert label_of(source, 0.1, "1kB") == "Q2_K_S"
    assert label_of(source, 16.1, "1GB") == "F16"


@pytest.mark.parametrize(("budget", "label"), [("q4_k_m", "Q4_K_M"), (" Q3_K ", "Q3_K_M"), ("IQ4_XS", "IQ4_XS")])
def test_a_budget_that_names_a_preset_gives_the_label(source: Source, budget: str, label: str) -> None:
    assert label_of(source, 9.0, budget) == label


def test_narrow_rows_take_the_simple_types_names() -> None:
    """llama.cpp gives such rows Q4_0 in its 2-bit presets, whose names would promise what is not there."""
    narrow = open_source(str(cached_model("llama", hidden=288, intermediate=288, heads=(9, 3))))
    sizes = preset_bits(narrow, (*K_LABELS, *NARROW_LABELS))
    assert sizes["Q2_K"] == sizes["Q4_0"]
    for name in NARROW_LABELS:
        assert label_of(narrow, sizes[name], "90MB") == name
    assert label_of(narrow, sizes["Q8_0"], "90MB") == "Q8_0"


def test_sizes_of_another_model_serve_where_llama_cpp_gives_none(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> dict[str, float]:
        raise InputError("llama.cpp cannot write it; choose another.")

    monkeypatch.setattr(labels, "preset_bits", refuse)
    assert label_of(source, 4.9, "90MB") == "Q4_K_M"
    assert nearest_label(3.66, {"Q2_K": 3.7, "Q3_K_S": 4.1}) == "Q2_K"
