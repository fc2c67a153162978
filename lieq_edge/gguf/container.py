"""Write GGUF files: all key-values and tensor descriptions first, then the data, one tensor at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType
from gguf.constants import GGUF_DEFAULT_ALIGNMENT, GGUF_MAGIC, GGUF_VERSION

from ..errors import InputError
from ..system.checked import CheckedFile
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

# The same for ``struct``, which refuses a number that does not fit instead of changing it.
_PACKED = {"u1": "B", "i1": "b", "u2": "H", "i2": "h", "u4": "I", "i4": "i", "f4": "f", "u8": "Q", "i8": "q", "f8": "d"}
_PACKED |= {"?": "?"}


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
    return sum(key_value_bytes(kv) for kv in _written(metadata))


def key_value_bytes(kv: KeyValue) -> int:
    """Bytes that a key-value takes in a file, also one that ``write_container`` leaves out."""
    head = 8 + len(kv.key.encode()) + 4
    if kv.type == GGUFValueType.ARRAY:
        return head + 12 + _value_bytes(kv.value, kv.item_type, kv.key)
    return head + _value_bytes([kv.value], kv.type, kv.key)


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
) -> str:
    """Write a GGUF file and compare it with what was meant; the same arguments give the same bytes.

    Empty lists in ``metadata`` are left out, and of equal keys the last one's value stands at the first one's place.

    Args:
        path: the file; it is replaced when it exists.
        architecture: value of ``general.architecture``, which ``metadata`` must hold too.
        metadata: key-values, written in this order after the architecture.
        tensors: all tensors, in the order of their data.
        data: encoded bytes of each tensor in turn; only one is held at a time.

    Returns:
        SHA-256 (hex) of the file.

    Raises:
        InputError: a value is a list of lists, which llama.cpp does not read.
        OSError: the file on the disk is not the one that was meant.
        ValueError: ``data`` does not agree with ``tensors``, or ``metadata`` with ``architecture``.
    """
    if not any(kv.key == ARCHITECTURE_KEY and kv.value == architecture for kv in metadata):
        raise ValueError(f"the key-values lack {ARCHITECTURE_KEY} = {architecture}")
    alignment = _alignment(metadata)
    with CheckedFile(path) as file:
        file.write(_header(metadata, tensors, alignment))
        for (name, shape, kind), content in zip(tensors, data, strict=True):
            array = content if isinstance(content, np.ndarray) else np.frombuffer(content, np.uint8)
            if array.nbytes != kind.nbytes(shape):
                raise ValueError(f"{name} takes {kind.nbytes(shape)} bytes of {kind.name}, got {array.nbytes}")
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.write(bytes(padded(array.nbytes, alignment) - array.nbytes))
    return file.sha256


def write_hollow(path: Path, metadata: Sequence[KeyValue], tensors: Sequence[Entry]) -> int:
    """Write the header of a GGUF file and leave a hole in the place of the weights.

    The file is as long as that of ``write_container``, and takes only the header's space where files may have holes.

    Returns:
        Bytes of the file.

    Raises:
        OSError: the file system does not take so long a file.
    """
    size = file_bytes(metadata, tensors)
    with open(path, "wb") as file:
        file.write(_header(metadata, tensors, _alignment(metadata)))
        file.truncate(size)
    return size


def _header(metadata: Sequence[KeyValue], tensors: Sequence[Entry], alignment: int) -> bytes:
    """Everything before the first tensor's data."""
    if len({name for name, _, _ in tensors}) < len(tensors):
        raise ValueError("two tensors have the same name")
    key_values = _written(metadata)
    parts = [struct.pack("<IIQQ", GGUF_MAGIC, GGUF_VERSION, len(tensors), len(key_values))]
    for kv in key_values:
        parts += [_text(kv.key), struct.pack("<I", kv.type)]
        if kv.type == GGUFValueType.ARRAY:
            parts += [struct.pack("<IQ", kv.item_type, len(kv.value)), _values(kv.value, kv.item_type, kv.key)]
        else:
            parts.append(_values([kv.value], kv.type, kv.key))
    offset = 0
    for name, shape, kind in tensors:
        parts += [_text(name), struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind.id, offset)]
        offset += padded(kind.nbytes(shape), alignment)
    header = b"".join(parts)
    return header.ljust(padded(len(header), alignment), b"\0")


def _text(text: str) -> bytes:
    content = _to_bytes(text)
    return struct.pack("<Q", len(content)) + content


def _values(values: Sequence[Any], kind: int | None, key: str) -> bytes:
    if kind == GGUFValueType.STRING:
        return b"".join(_text(value) for value in values)
    return struct.pack(f"<{len(values)}{_PACKED[_scalar_format(kind, key)]}", *values)


def _written(metadata: Sequence[KeyValue]) -> list[KeyValue]:
    """The key-values as they stand in a file: the architecture first, no empty lists, each key once."""
    by_key = {kv.key: kv for kv in sorted(metadata, key=lambda kv: kv.key != ARCHITECTURE_KEY)}
    return [kv for kv in by_key.values() if kv.type != GGUFValueType.ARRAY or len(kv.value) > 0]


def _value_bytes(values: Sequence[Any], kind: int | None, key: str) -> int:
    if kind == GGUFValueType.STRING:
        return 8 * len(values) + sum(len(_to_bytes(value)) for value in values)
    return len(values) * np.dtype(_scalar_format(kind, key)).itemsize


def _scalar_format(kind: int | None, key: str) -> str:
    if kind not in SCALAR_FORMATS:
        raise InputError(f"The key {key} holds a list of lists, which llama.cpp does not read; remove it.")
    return SCALAR_FORMATS[kind]


def _to_bytes(text: str) -> bytes:
    # Tokens need not be UTF-8: what is not stands as surrogates in a Python string.
    return text.encode("utf-8", "surrogateescape")


def _alignment(metadata: Sequence[KeyValue]) -> int:
    return next((int(kv.value) for kv in metadata if kv.key == ALIGNMENT_KEY), GGUF_DEFAULT_ALIGNMENT)


def padded(size: int, alignment: int = GGUF_DEFAULT_ALIGNMENT) -> int:
    """``size`` rounded up to the alignment of tensor data."""
    return -(-size // alignment) * alignment
