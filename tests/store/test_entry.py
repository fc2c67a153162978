"""Entries come back bit for bit, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lieq_edge.store.entry import DamagedError, read_entry, write_entry

TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
ARRAYS = st.dictionaries(
    st.text(max_size=20).filter(lambda name: name != "__metadata__"),
    st.sampled_from(TYPES).flatmap(
        lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    ),
    max_size=5,
)
RECORDS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("entry") / "x.safetensors"


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@settings(max_examples=150)
@given(arrays=ARRAYS, record=RECORDS)
def test_what_is_written_is_read(path: Path, arrays: dict[str, np.ndarray], record: Any) -> None:
    size = write_entry(path, arrays, record)
    loaded = read_entry(path)
    assert size == path.stat().st_size
    assert list(loaded.arrays) == list(arrays)
    assert all(same(loaded.arrays[name], arrays[name]) for name in arrays)
    assert loaded.record == record
    assert all(array.flags.writeable and array.flags.aligned for array in loaded.arrays.values())


@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_byte_or_a_missing_end_is_found(path: Path, data: st.DataObject) -> None:
    write_entry(path, {"a": np.arange(20, dtype=np.float32), "b": np.zeros(3, np.uint8)}, {"x": [1, 2.5]})
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
    else:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DamagedError):
        read_entry(path)


def test_a_whole_file_that_is_none_of_ours_is_refused(path: Path) -> None:
    safetensors.numpy.save_file({"a": np.zeros(40)}, path)
    with pytest.raises(DamagedError):
        read_entry(path)


def test_other_tools_can_open_an_entry(path: Path) -> None:
    arrays = {"a": np.arange(3, dtype=np.uint8), "b": np.ones((2, 3), np.float32), "c": np.zeros((0, 4), np.int64)}
    write_entry(path, arrays, None)
    loaded = safetensors.numpy.load_file(path)
    assert all(same(loaded[name], arrays[name]) for name in arrays)


def test_rows_of_a_larger_array_and_other_byte_orders_are_written_as_they_read(path: Path) -> None:
    columns = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    write_entry(path, {"columns": columns, "big": np.arange(3, dtype=">i4")}, None)
    loaded = read_entry(path).arrays
    assert loaded["columns"].tolist() == columns.tolist()
    assert loaded["big"].tolist() == [0, 1, 2]


def test_what_cannot_be_held_is_refused(path: Path) -> None:
    with pytest.raises(TypeError, match="complex"):
        write_entry(path, {"a": np.zeros(2, np.complex64)}, None)
    with pytest.raises(ValueError, match="__metadata__"):
        write_entry(path, {"__metadata__": np.zeros(2)}, None)
