"""Keys are the same for the same parts and differ for others."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lieq_edge.store import keys
from lieq_edge.store.keys import array_hash, canonical, key_of, machine, versions

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_the_order_of_names_does_not_count(parts: dict[str, Any]) -> None:
    reordered = dict(reversed(parts.items()))
    assert key_of("kind", parts) == key_of("kind", reordered)
    assert json.loads(canonical(parts)) == parts


@given(VALUES, VALUES)
def test_different_parts_have_different_keys(one: Any, other: Any) -> None:
    # As JSON tells them apart: 1 and 1.0 and True differ.
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key_of("kind", {"x": one}) == key_of("kind", {"x": other})) == same


def test_kinds_types_and_shapes_count() -> None:
    assert key_of("one", {}) != key_of("other", {})
    assert array_hash(np.zeros(2, np.float32)) != array_hash(np.zeros(1, np.float64))
    assert array_hash(np.zeros((2, 3))) != array_hash(np.zeros((3, 2)))
    assert key_of("a", {"x": {"b"}}) != key_of("a", {"x": ["b"]})


def test_tensors_count_by_their_values() -> None:
    values = np.arange(6).reshape(2, 3)
    assert array_hash(torch.from_numpy(values)) == array_hash(values) == array_hash(np.asfortranarray(values))
    assert array_hash(values.astype(">i8")) == array_hash(values)
    assert canonical({"n": np.int64(3), "t": (1, 2)}) == canonical({"n": 3, "t": [1, 2]})


@pytest.mark.parametrize("value", [object(), b"bytes", {1: 2}, np.array([object()]), Path("x")])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        key_of("kind", {"x": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="canonical"):
        key_of("kind", {"x": value})


def test_versions_and_machine_have_keys() -> None:
    libraries = {"torch", "transformers", "tokenizers", "numpy", "scipy", "numba", "llama-cpp-python", "gguf"}
    assert {"format", "code", "safetensors", "sentencepiece", *libraries} <= set(versions())
    assert all(versions().values())
    assert canonical(versions())
    assert machine(3)["threads"] == 3
    assert canonical(machine(None))


def test_another_version_of_a_library_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions()
    keys._library_versions.cache_clear()
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == "numba" else installed(name))
    after = versions()
    keys._library_versions.cache_clear()
    assert {name for name in before if before[name] != after[name]} == {"numba"}


def test_instructions_are_known_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    keys._instructions.cache_clear()
    monkeypatch.setattr("sys.platform", "darwin")
    names = keys._instructions()
    keys._instructions.cache_clear()
    assert names == keys._numpy_instructions()
    assert len(names.split()) > 1
