"""GGUF files hold what they were given, byte for byte as the gguf library writes it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as V
from hypothesis import given, settings
from hypothesis import strategies as st

from lieq_edge.errors import InputError
from lieq_edge.gguf.container import KeyValue, file_bytes, header_bytes, metadata_bytes, write_container
from lieq_edge.gguf.header import read_header, type_name
from lieq_edge.gguf.types import TYPES

ARCHITECTURE = KeyValue("general.architecture", "llama", int(V.STRING))
EVERY_TYPE = [
    ARCHITECTURE,
    KeyValue("a.u8", 200, int(V.UINT8)),
    KeyValue("a.i8", -100, int(V.INT8)),
    KeyValue("a.u16", 60000, int(V.UINT16)),
    KeyValue("a.i16", -30000, int(V.INT16)),
    KeyValue("a.u32", 4_000_000_000, int(V.UINT32)),
    KeyValue("a.i32", -2_000_000_000, int(V.INT32)),
    KeyValue("a.f32", float(np.float32(1e-5)), int(V.FLOAT32)),
    KeyValue("a.bool", True, int(V.BOOL)),
    KeyValue("a.string", "grüße ☃", int(V.STRING)),
    KeyValue("a.empty", "", int(V.STRING)),
    KeyValue("a.u64", 2**63 + 1, int(V.UINT64)),
    KeyValue("a.i64", -(2**62), int(V.INT64)),
    KeyValue("a.f64", 0.1, int(V.FLOAT64)),
    KeyValue("a.strings", ["x", "", "日本", "\udcff\udc80"], int(V.ARRAY), int(V.STRING)),
    KeyValue("a.floats", [0.5, -2.0], int(V.ARRAY), int(V.FLOAT32)),
    KeyValue("a.doubles", [0.1], int(V.ARRAY), int(V.FLOAT64)),
    KeyValue("a.bytes", [1, 2, 255], int(V.ARRAY), int(V.UINT8)),
    KeyValue("a.bools", [True, False], int(V.ARRAY), int(V.BOOL)),
    KeyValue("a.longs", [2**40, -1], int(V.ARRAY), int(V.INT64)),
]
ENTRIES = [
    ("token_embd.weight", (3, 64), TYPES["F32"]),
    ("blk.0.attn_norm.weight", (5,), TYPES["F32"]),
    ("blk.0.ffn_up.weight", (2, 64), TYPES["Q2_0"]),
    ("blk.0.ffn_down.weight", (2, 256), TYPES["Q3_K"]),
]


def contents(seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.bytes(kind.nbytes(shape)) for _, shape, kind in ENTRIES]


def write(path: Path, metadata: list[KeyValue] = EVERY_TYPE) -> Path:
    digest = write_container(path, "llama", metadata, ENTRIES, contents())
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def write_with_library(path: Path, metadata: list[KeyValue]) -> Path:
    """The same file as ``write``, by the gguf library."""

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value

    writer = gguf.GGUFWriter(path, "llama")
    for kv in metadata:
        if kv.key == "general.alignment":
            writer.data_alignment = kv.value
        if kv.key != "general.architecture":
            item_type = None if kv.item_type is None else V(kv.item_type)
            writer.add_key_value(kv.key, plain(kv.value), V(kv.type), item_type)
    for name, shape, kind in ENTRIES:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), kind.nbytes(shape), raw_dtype=kind.id)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_padding(writer.fout[0], writer.fout[0].tell())
    for content in contents():
        writer.write_tensor_data(np.frombuffer(content, np.uint8))
    writer.close()
    return path


@pytest.mark.parametrize(
    "more",
    [
        [],
        [KeyValue("general.alignment", 128, int(V.UINT32))],
        [KeyValue("a.u8", 7, int(V.UINT8)), KeyValue("a.new", "x", int(V.STRING))],
        [KeyValue("a.more", "x" * length, int(V.STRING)) for length in (1,)],
    ],
    ids=["plain", "aligned", "key twice", "other length"],
)
def test_the_bytes_are_those_of_the_library(tmp_path: Path, more: list[KeyValue]) -> None:
    metadata = [*EVERY_TYPE, *more]
    written, library = write(tmp_path / "own.gguf", metadata), write_with_library(tmp_path / "library.gguf", metadata)
    assert written.read_bytes() == library.read_bytes()
    assert file_bytes(metadata, ENTRIES) == written.stat().st_size


@pytest.mark.parametrize("value", [-1, 256, 0.5])
def test_a_number_that_does_not_fit_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(struct.error):
        write(tmp_path / "x.gguf", [ARCHITECTURE, KeyValue("a.u8", value, int(V.UINT8))])


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same name"):
        write_container(tmp_path / "x.gguf", "llama", [ARCHITECTURE], [ENTRIES[0]] * 2, contents()[:1] * 2)


def test_every_value_type_comes_back_unchanged(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "x.gguf"))
    assert list(header.metadata) == EVERY_TYPE


def test_tensors_come_back_where_the_header_says(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf")
    data = path.read_bytes()
    header = read_header(path)
    for tensor, (name, shape, kind), content in zip(header.tensors, ENTRIES, contents(), strict=True):
        assert (tensor.name, tensor.shape, tensor.type) == (name, shape, kind.id)
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == content
        assert tensor.offset % 32 == 0
    assert type_name(header.tensors[2].type) == "Q2_0"


def test_the_library_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    metadata = [kv for kv in EVERY_TYPE if kv.key != "a.strings"]
    known = [entry for entry in ENTRIES if entry[2].name != "Q2_0"]
    write_container(path, "llama", metadata, known, [bytes(kind.nbytes(shape)) for _, shape, kind in known])
    reader = gguf.GGUFReader(path)
    for kv in metadata:
        assert reader.fields[kv.key].contents() == kv.value
    header = read_header(path)
    assert [(t.name, t.data_offset, t.n_bytes) for t in reader.tensors] == [
        (t.name, t.offset, t.nbytes) for t in header.tensors
    ]


def test_sizes_are_exact(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf")
    assert file_bytes(EVERY_TYPE, ENTRIES) == path.stat().st_size
    assert header_bytes(EVERY_TYPE, ENTRIES) == read_header(path).tensors[0].offset


def test_metadata_bytes_is_what_a_key_adds(tmp_path: Path) -> None:
    sizes = []
    for count in (1, len(EVERY_TYPE)):
        path = tmp_path / "x.gguf"
        write_container(path, "llama", EVERY_TYPE[:count], [], [])
        sizes.append(path.stat().st_size)
    added = metadata_bytes(EVERY_TYPE) - metadata_bytes(EVERY_TYPE[:1])
    assert abs(sizes[1] - sizes[0] - added) < 32


def test_alignment_key_is_obeyed(tmp_path: Path) -> None:
    metadata = [ARCHITECTURE, KeyValue("general.alignment", 256, int(V.UINT32))]
    path = write(tmp_path / "x.gguf", metadata)
    assert all(tensor.offset % 256 == 0 for tensor in read_header(path).tensors)
    assert file_bytes(metadata, ENTRIES) == path.stat().st_size


def test_same_arguments_give_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.gguf").read_bytes() == write(tmp_path / "b.gguf").read_bytes()


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    large = [(f"blk.{index}.ffn_up.weight", (1 << 17,), TYPES["F32"]) for index in range(4)]
    sizes = []

    def data() -> Iterator[bytes]:
        for _, shape, kind in large:
            sizes.append(path.stat().st_size)
            yield bytes(kind.nbytes(shape))

    write_container(path, "llama", EVERY_TYPE, large, data())
    steps = np.diff([*sizes, path.stat().st_size])
    # All but what a buffer holds is in the file before the next tensor is asked for.
    assert (np.abs(steps - (1 << 19)) <= 1 << 18).all()


def test_empty_lists_are_left_out(tmp_path: Path) -> None:
    empty = KeyValue("a.none", [], int(V.ARRAY), int(V.STRING))
    path = write(tmp_path / "x.gguf", [ARCHITECTURE, empty])
    assert read_header(path).metadata == (ARCHITECTURE,)
    assert file_bytes([ARCHITECTURE, empty], ENTRIES) == path.stat().st_size


def test_lists_of_lists_are_refused() -> None:
    with pytest.raises(InputError, match=r"a\.nested"):
        metadata_bytes([KeyValue("a.nested", [[1]], int(V.ARRAY), int(V.ARRAY))])


@pytest.mark.parametrize("data", [[b"short"], [bytes(768), bytes(20)]])
def test_data_that_does_not_fit_is_refused(tmp_path: Path, data: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"takes|shorter"):
        write_container(tmp_path / "x.gguf", "llama", [ARCHITECTURE], ENTRIES, data)


def test_architecture_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="architecture"):
        write_container(tmp_path / "x.gguf", "qwen2", [ARCHITECTURE], [], [])


def test_every_truncation_is_an_input_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    last = read_header(tmp_path / "x.gguf").tensors[-1]
    for size in [*range(0, last.offset, 7), last.offset + last.nbytes - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_header(cut)


@settings(max_examples=200)
@given(at=st.integers(4, 900), value=st.integers(0, 255))
def test_damage_is_an_input_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, at: int, value: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    data = bytearray(write(path).read_bytes())
    data[at] = value
    path.write_bytes(data)
    try:
        header = read_header(path)
    except InputError:
        return
    assert all(t.offset + t.nbytes <= len(data) for t in header.tensors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a GGUF file"),
        (b"GGML" + bytes(60), "not a GGUF file"),
        (b"PK\x03\x04 something else", "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "version 99"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_header(path)


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Cannot read"):
        read_header(tmp_path / "none.gguf")
