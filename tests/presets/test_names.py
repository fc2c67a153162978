"""Names of presets."""

from __future__ import annotations

import subprocess
import sys

import llama_cpp
import pytest

from lieq_edge.presets.names import FILE_TYPES, PRESETS, USUAL, preset_name

_MOSTLY = "LLAMA_FTYPE_MOSTLY_"


def test_the_values_are_those_of_llama_cpp() -> None:
    theirs = {name.removeprefix(_MOSTLY): value for name, value in vars(llama_cpp).items() if name.startswith(_MOSTLY)}
    # llama-quantize offers no NVFP4, and does not quantise to floats.
    assert {name: theirs[name] for name in FILE_TYPES} == FILE_TYPES
    assert set(theirs) - set(FILE_TYPES) == {"F16", "BF16", "NVFP4"}
    assert set(USUAL) < set(PRESETS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Q4_K_M", "Q4_K_M"),
        (" q4_k_m ", "Q4_K_M"),
        ("Q4_K", "Q4_K_M"),
        ("iq2_xxs", "IQ2_XXS"),
        ("F16", None),
        ("90MB", None),
        ("2.1", None),
        ("", None),
    ],
)
def test_a_name_is_recognised(text: str, name: str | None) -> None:
    assert preset_name(text) == name


def test_names_and_sizes_load_neither_llama_cpp_nor_pytorch() -> None:
    modules = "lieq_edge.presets.names, lieq_edge.presets.sizes, lieq_edge.presets.make"
    script = f"import {modules}, sys; print({{'llama_cpp', 'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
