"""An entry: one file of arrays and a JSON record, with a checksum that is verified before anything is believed.

The file is in the safetensors format, so that other tools open it too, but it is written and read here: piece by piece
instead of through a copy in memory, and with the checksum, SHA-256 over the whole file with zeros in its own place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_NAMES = {name: kind for kind, name in _TYPES.items()}
_BEGINNING = b'{"__metadata__":{"sha256":"'
_NO_DIGEST = b"0" * 64
_DIGEST_AT = 8 + len(_BEGINNING)


class DamagedError(Exception):
    """The file is not what was written: its checksum, or its layout, is wrong."""


@dataclass(frozen=True)
class Entry:
    """What was kept.

    Attributes:
        arrays: by name; bit for bit what was put in.
        record: JSON values, e.g. names, numbers (floats are exact) and lists.
    """

    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    record: Any = None


def write_entry(path: Path, arrays: Arrays, record: Any) -> int:
    """Write an entry to ``path``; the caller renames it when it is whole.

    Args:
        path: of the file.
        arrays: by name, of numbers or truth values.
        record: JSON values.

    Returns:
        Bytes of the file.

    Raises:
        OSError: it cannot be written.
    """
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    header = _header(plain, json.dumps(record, separators=(",", ":")))
    digest = hashlib.sha256(header)
    with path.open("wb") as file:
        file.write(header)
        for _, array in _by_place(plain):
            values = np.asarray(array, array.dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8)
            digest.update(values.data)
            file.write(values.data)
        size = file.tell()
        file.seek(_DIGEST_AT)
        file.write(digest.hexdigest().encode())
    return size


def _header(arrays: Arrays, record: str) -> bytes:
    parts = [_BEGINNING + _NO_DIGEST + b'","record":' + json.dumps(record).encode() + b"}"]
    places, offset = {}, 0
    for name, array in _by_place(arrays):
        places[name] = [offset, offset + array.nbytes]
        offset += array.nbytes
    for name, array in arrays.items():
        kind = _NAMES.get(array.dtype.newbyteorder("<").str)
        if kind is None:
            raise TypeError(f"{name} is of type {array.dtype}, which entries do not hold")
        if name == "__metadata__":
            raise ValueError("an array cannot be called __metadata__")
        described = {"dtype": kind, "shape": list(array.shape), "data_offsets": places[name]}
        parts.append(json.dumps(name).encode() + b":" + json.dumps(described, separators=(",", ":")).encode())
    body = b",".join(parts) + b"}"
    # Arrays begin where a line of the processor's cache does.
    body += b" " * (-(8 + len(body)) % 64)
    return len(body).to_bytes(8, "little") + body


def _by_place(arrays: Arrays) -> list[tuple[str, npt.NDArray[Any]]]:
    """In the order of the file: wide types first, so that every value lies where its type wants it."""
    return sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)


def read_entry(path: Path) -> Entry:
    """Read an entry; its arrays can be written to.

    Raises:
        DamagedError: the file is not what was written.
        OSError: it cannot be read, or is not there.
    """
    # One read: the arrays are parts of this buffer.
    raw = np.fromfile(path, np.uint8)
    if raw.size < _DIGEST_AT + len(_NO_DIGEST):
        raise DamagedError("it is truncated")
    own = raw[_DIGEST_AT : _DIGEST_AT + len(_NO_DIGEST)].tobytes()
    raw[_DIGEST_AT : _DIGEST_AT + len(_NO_DIGEST)] = np.frombuffer(_NO_DIGEST, np.uint8)
    if hashlib.sha256(raw.data).hexdigest().encode() != own:
        raise DamagedError("its checksum is wrong")
    try:
        return _parse(raw)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # A whole file, but none of ours.
        raise DamagedError("its layout is wrong") from error


def _parse(raw: npt.NDArray[np.uint8]) -> Entry:
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    arrays = {}
    for name, described in header.items():
        if name != "__metadata__":
            first, last = described["data_offsets"]
            values = raw[start + first : start + last].view(_TYPES[described["dtype"]])
            arrays[name] = values.reshape(described["shape"])
    return Entry(arrays, json.loads(header["__metadata__"]["record"]))
