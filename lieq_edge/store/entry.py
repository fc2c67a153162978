"""An entry: one file of arrays and a JSON record, with its own name and a checksum that are verified before use.

The file is in the safetensors format, so that other tools open it too, but it is written and read here: piece by piece
instead of through a copy in memory, and with the checksum, SHA-256 over the whole file with zeros in its own place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
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
_LABELS_AT = _DIGEST_AT + len(_NO_DIGEST)
# A model's label is cut, so that it and the name are in the beginning of the file.
_LONGEST_LABEL, _LABEL_BYTES = 300, 4096
# A link in the cache is not followed, and a FIFO is not waited for.
_READING = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class DamagedError(Exception):
    """The file is not the one that was written: its checksum, its name or its layout is wrong."""


@dataclass(frozen=True)
class Entry:
    """A stored result.

    Attributes:
        arrays: by name; bit for bit as they were stored.
        record: JSON values, e.g. names, numbers (floats are exact) and lists.
    """

    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    record: Any = None


def write_entry(path: Path, arrays: Arrays, record: Any, name: str = "", model: str = "") -> int:
    """Write an entry; the caller renames it when it is whole.

    Args:
        path: the file.
        arrays: by name, of numbers or truth values.
        record: JSON values.
        name: kind and key of the entry, which it must have when it is read.
        model: label of the model that it is about, for people; see ``read_label``.

    Returns:
        Bytes of the file.

    Raises:
        OSError: it cannot be written.
    """
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    header = _header(plain, json.dumps(record, separators=(",", ":")), name, model)
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


def _header(arrays: Arrays, record: str, name: str, model: str) -> bytes:
    about = f',"model":{json.dumps(model[:_LONGEST_LABEL])}' if model else ""
    labels = f'","name":{json.dumps(name)}{about},"record":{json.dumps(record)}}}'
    parts = [_BEGINNING + _NO_DIGEST + labels.encode()]
    places, offset = {}, 0
    for label, array in _by_place(arrays):
        places[label] = [offset, offset + array.nbytes]
        offset += array.nbytes
    for label, array in arrays.items():
        kind = _NAMES.get(array.dtype.newbyteorder("<").str)
        if kind is None:
            raise TypeError(f"{label} is of type {array.dtype}, which entries do not hold")
        if label == "__metadata__":
            raise ValueError("an array cannot be called __metadata__")
        described = {"dtype": kind, "shape": list(array.shape), "data_offsets": places[label]}
        parts.append(json.dumps(label).encode() + b":" + json.dumps(described, separators=(",", ":")).encode())
    body = b",".join(parts) + b"}"
    # Arrays begin where a line of the processor's cache does.
    body += b" " * (-(8 + len(body)) % 64)
    return len(body).to_bytes(8, "little") + body


def _by_place(arrays: Arrays) -> list[tuple[str, npt.NDArray[Any]]]:
    """The arrays in the order of the file: wide types first, so that every value lies where its type wants it."""
    return sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)


def read_entry(path: Path, name: str = "") -> Entry:
    """Read an entry; its arrays can be written to.

    Args:
        path: the file.
        name: kind and key that the entry must have.

    Raises:
        DamagedError: the file is not the one that was written, or not the entry of this name.
        OSError: it cannot be read, or is not there.
    """
    # One read: the arrays are parts of this buffer.
    raw = _content(path)
    if raw.size < _DIGEST_AT + len(_NO_DIGEST):
        raise DamagedError("it is truncated")
    noted = raw[_DIGEST_AT : _DIGEST_AT + len(_NO_DIGEST)].tobytes()
    raw[_DIGEST_AT : _DIGEST_AT + len(_NO_DIGEST)] = np.frombuffer(_NO_DIGEST, np.uint8)
    if hashlib.sha256(raw.data).hexdigest().encode() != noted:
        raise DamagedError("its checksum is wrong")
    try:
        return _parse(raw, name)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # Another program wrote the file.
        raise DamagedError("its layout is wrong") from error


def read_label(path: Path) -> str | None:
    """The label of the model that an entry is about, from its beginning alone; None where there is none.

    Nothing is verified: the label is shown to people, and decides only what they remove.
    """
    try:
        handle = os.open(path, _READING)
    except OSError:
        return None
    with os.fdopen(handle, "rb", buffering=0) as file:
        try:
            text = file.read(_LABEL_BYTES)[_LABELS_AT:].decode("ascii", "replace") if _is_ordinary(handle) else ""
            before, after = '","name":', ',"model":'
            if not text.startswith(before):
                return None
            decoder = json.JSONDecoder()
            _, end = decoder.raw_decode(text, len(before))
            if not text.startswith(after, end):
                return None
            label, _ = decoder.raw_decode(text, end + len(after))
        except (OSError, ValueError, RecursionError):
            return None
    return label if isinstance(label, str) and label else None


def _is_ordinary(handle: int) -> bool:
    return stat.S_ISREG(os.fstat(handle).st_mode)


def _content(path: Path) -> npt.NDArray[np.uint8]:
    try:
        handle = os.open(path, _READING)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedError("it is a link") from error
        raise
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not _is_ordinary(handle):
            raise DamagedError("it is not an ordinary file")
        raw = np.empty(os.fstat(handle).st_size, np.uint8)
        filled = 0
        while filled < raw.size and (count := file.readinto(raw[filled:].data)):
            filled += count
        return raw[:filled]


def _parse(raw: npt.NDArray[np.uint8], name: str) -> Entry:
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:start].tobytes())
    if header["__metadata__"]["name"] != name:
        raise DamagedError("it is the entry of other work")
    arrays = {}
    for label, described in header.items():
        if label != "__metadata__":
            first, last = described["data_offsets"]
            values = raw[start + first : start + last].view(_TYPES[described["dtype"]])
            arrays[label] = values.reshape(described["shape"])
    return Entry(arrays, json.loads(header["__metadata__"]["record"]))
