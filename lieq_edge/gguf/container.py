"""Write GGUF files: all key-values and tensor descriptions first, then the data, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter
from gguf.constants import GGUF_DEFAULT_ALIGNMENT

from ..errors import InputError
from .types import GgmlType

ARCHITECTURE_KEY = "general.architecture"
ALIGNMENT_KEY = "general.alignment"

SCALAR_FORMATS: dict[int, str] = {
    GGUFValueType.UINT8: "u1",
    GGUFValueType.INT8: "i1",
    GGUFValueType.UINT16: "u2",
    GGUFValueType.INT16: "i2",
    GGUFValueType.UINT32: "u4",
    GGUFValueType.INT32: "i4",
    GGUFValueType.FLOAT32: "f4",
    GGUFValueType.UINT64: "u8",
    GGUFValueType.INT64: "i8",
    GGUFValueType.FLOAT64: "f8",
    GGUFValueType.BOOL: "?",
}
"""numpy codes of the value types that are numbers."""


@dataclass(frozen=True)
class KeyValue:
    """One GGUF key-value.

    Attributes:
        key: e.g. ``llama.block_count``.
        value: a Python scalar, string, or list of them.
        type: ``gguf.GGUFValueType`` as an int.
        item_type: the type of the list's items when ``type`` is ARRAY.
    """

    key: str
    value: Any
    type: int
    item_type: int | None = None


Entry = tuple[str, tuple[int, ...], GgmlType]
"""A tensor to write: GGUF name, shape in numpy order, type."""


def metadata_bytes(metadata: Sequence[KeyValue]) -> int:
    """Bytes that ``metadata`` takes in a file."""
    return sum(_key_value_bytes(kv) for kv in metadata if _is_written(kv))


def header_bytes(metadata: Sequence[KeyValue], tensors: Sequence[Entry]) -> int:
    """Bytes of a file before its first tensor's data: counts, key-values, tensor descriptions, padding."""
    shapes = [(name, shape) for name, shape, _ in tensors]
    return header_size(metadata_bytes(metadata), shapes, _alignment(metadata))


def header_size(
    metadata_size: int, shapes: Sequence[tuple[str, tuple[int, ...]]], alignment: int = GGUF_DEFAULT_ALIGNMENT
) -> int:
    """``header_bytes`` where only the size of the key-values is known, e.g. from saved measurements."""
    described = sum(8 + len(name.encode()) + 4 + 8 * len(shape) + 4 + 8 for name, shape in shapes)
    return padded(24 + metadata_size + described, alignment)


def file_bytes(metadata: Sequence[KeyValue], tensors: Sequence[Entry]) -> int:
    """Bytes of the whole file that ``write_container`` makes of the same arguments."""
    alignment = _alignment(metadata)
    data = sum(padded(kind.nbytes(shape), alignment) for _, shape, kind in tensors)
    return header_bytes(metadata, tensors) + data


def write_container(
    path: Path,
    architecture: str,
    metadata: Sequence[KeyValue],
    tensors: Sequence[Entry],
    data: Iterable[bytes | np.ndarray[Any, Any]],
) -> None:
    """Write a GGUF file; the same arguments give the same bytes.

    Empty lists in ``metadata`` are left out, as gguf's writer has no form for them.

    Args:
        path: replaced when it exists.
        architecture: the value of ``general.architecture``, which ``metadata`` must hold too.
        metadata: key-values, written in this order after the architecture.
        tensors: all tensors, in the order of their data.
        data: gives the encoded bytes of each tensor in turn; only one is held at a time.

    Raises:
        InputError: a value is a list of lists, which llama.cpp does not read.
        ValueError: ``data`` does not agree with ``tensors``, or ``metadata`` with ``architecture``.
    """
    if not any(kv.key == ARCHITECTURE_KEY and kv.value == architecture for kv in metadata):
        raise ValueError(f"the key-values lack {ARCHITECTURE_KEY} = {architecture}")
    writer = GGUFWriter(path, architecture)
    writer.data_alignment = _alignment(metadata)
    for kv in metadata:
        if kv.key != ARCHITECTURE_KEY and _is_written(kv):
            item_type = None if kv.item_type is None else GGUFValueType(kv.item_type)
            writer.add_key_value(kv.key, _to_bytes(kv.value), GGUFValueType(kv.type), item_type)
    for name, shape, kind in tensors:
        # A float dtype keeps `shape` counted in weights; the type's number may be newer than gguf's enum.
        number: Any = kind.id
        writer.add_tensor_info(name, shape, np.dtype(np.float32), kind.nbytes(shape), raw_dtype=number)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        writer.write_padding(writer.fout[0], writer.fout[0].tell())
        for (name, shape, kind), content in zip(tensors, data, strict=True):
            array = content if isinstance(content, np.ndarray) else np.frombuffer(content, np.uint8)
            if array.nbytes != kind.nbytes(shape):
                raise ValueError(f"{name} takes {kind.nbytes(shape)} bytes of {kind.name}, got {array.nbytes}")
            writer.write_tensor_data(np.ascontiguousarray(array))
    finally:
        writer.close()


def _is_written(kv: KeyValue) -> bool:
    return kv.type != GGUFValueType.ARRAY or len(kv.value) > 0


def _key_value_bytes(kv: KeyValue) -> int:
    head = 8 + len(kv.key.encode()) + 4
    if kv.type == GGUFValueType.ARRAY:
        return head + 12 + _value_bytes(kv.value, kv.item_type, kv.key)
    return head + _value_bytes([kv.value], kv.type, kv.key)


def _value_bytes(values: Sequence[Any], kind: int | None, key: str) -> int:
    if kind == GGUFValueType.STRING:
        return 8 * len(values) + sum(map(len, _to_bytes(list(values))))
    if kind not in SCALAR_FORMATS:
        raise InputError(f"The key {key} holds a list of lists, which llama.cpp does not read; remove it.")
    return len(values) * np.dtype(SCALAR_FORMATS[kind]).itemsize


def _to_bytes(value: Any) -> Any:
    # Tokens need not be UTF-8: what is not stands as surrogates in a Python string.
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_to_bytes(item) for item in value]
    return value


def _alignment(metadata: Sequence[KeyValue]) -> int:
    return next((int(kv.value) for kv in metadata if kv.key == ALIGNMENT_KEY), GGUF_DEFAULT_ALIGNMENT)


def padded(size: int, alignment: int = GGUF_DEFAULT_ALIGNMENT) -> int:
    """``size`` rounded up to the alignment of tensor data."""
    return -(-size // alignment) * alignment
