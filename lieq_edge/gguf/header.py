"""Read and check the header of a GGUF file: key-values and tensor descriptions.

gguf's own reader takes seconds for a large vocabulary, does not know types newer than itself, and raises all kinds of
errors on a damaged file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.constants import GGUF_DEFAULT_ALIGNMENT

from ..errors import InputError
from ..system.regular import open_regular
from .container import ALIGNMENT_KEY, SCALAR_FORMATS, KeyValue
from .names import POSITIONS
from .types import TYPES_BY_ID

_MAX_DIMENSIONS = 4


class UnreadableError(InputError):
    """Not a GGUF file, not all of it, or not to be read at all: llama.cpp does not load it either."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: GGUF name.
        shape: sizes in numpy order.
        type: value of ``enum ggml_type``.
        offset: position of its first byte in the file.
        nbytes: number of its bytes in the file, without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """Everything in a GGUF file except the weights."""

    metadata: tuple[KeyValue, ...]
    tensors: tuple[StoredTensor, ...]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        return next((kv.value for kv in self.metadata if kv.key == key), default)


def learned_positions(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Number of positions that a model with tensors of these shapes has learned; None if it learned none.

    llama.cpp aborts the process on a longer window.
    """
    table = shapes.get(POSITIONS)
    return table[0] if table else None


def type_name(kind: int) -> str:
    """ggml's name of a type number, upper case; e.g. ``type 99`` for an unknown one."""
    if kind in TYPES_BY_ID:
        return TYPES_BY_ID[kind].name
    try:
        return GGMLQuantizationType(kind).name
    except ValueError:
        return f"type {kind}"


def read_header(path: Path) -> Header:
    """Read the header of the GGUF file ``path``.

    Raises:
        UnreadableError: the file is missing, not GGUF, or truncated.
        InputError: it has a version or byte order that llama.cpp does not read, or contradicts itself.
    """
    try:
        with open_regular(path) as file:
            if file.read(4) != b"GGUF":
                raise UnreadableError(f"{path} is not a GGUF file (it does not begin with GGUF); give a GGUF model.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Parser(path, data).parse()
    except OSError as error:
        raise UnreadableError(f"Cannot read {path} ({error.strerror}); give an existing GGUF file.") from error
    except (struct.error, OverflowError, ValueError, MemoryError) as error:
        raise InputError(f"{path} is damaged: its header cannot be read ({error}); fetch it again.") from error


class _Parser:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 4

    def parse(self) -> Header:
        version = self.number("<I")
        if version & 0xFFFF == 0:
            raise InputError(f"{self.path} is a big-endian GGUF file; convert it to little-endian first.")
        if version not in (2, 3):
            raise InputError(f"{self.path} has GGUF version {version}; only 2 and 3 can be read: convert it again.")
        n_tensors, n_keys = self.number("<Q"), self.number("<Q")
        # 13 and 32 bytes are the smallest key-value and tensor description: a damaged count must not start a long loop.
        if n_keys * 13 + n_tensors * 32 > len(self.data):
            raise UnreadableError(
                f"{self.path} is truncated or damaged: {n_keys} keys and {n_tensors} tensors cannot be in "
                f"{len(self.data):,} bytes; fetch it again."
            )
        metadata = tuple(self.key_value() for _ in range(n_keys))
        alignment = next((kv.value for kv in metadata if kv.key == ALIGNMENT_KEY), GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise ValueError(f"alignment {alignment} is not a power of two")
        described = [self.tensor() for _ in range(n_tensors)]
        start = -(-self.at // alignment) * alignment
        tensors = tuple(self.place(start, *tensor) for tensor in described)
        for kind, names in (("key", [kv.key for kv in metadata]), ("tensor", [t.name for t in tensors])):
            if len(set(names)) < len(names):
                raise ValueError(f"a {kind} occurs twice")
        return Header(metadata, tensors)

    def place(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> StoredTensor:
        block, block_bytes = _block(kind, name)
        if shape[-1] % block:
            raise ValueError(f"{name}: rows of {shape[-1]} weights cannot be {type_name(kind)}")
        nbytes = prod(shape) // block * block_bytes
        if start + offset + nbytes > len(self.data):
            raise UnreadableError(
                f"{self.path} is truncated: the tensor {name} ends at byte {start + offset + nbytes:,} and the file "
                f"at {len(self.data):,}; fetch it again."
            )
        return StoredTensor(name, shape, kind, start + offset, nbytes)

    def number(self, code: str) -> Any:
        size = struct.calcsize(code)
        (value,) = struct.unpack(code, self.take(size))
        return value

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self.ended()
        self.at += size
        return self.data[self.at - size : self.at]

    def ended(self) -> UnreadableError:
        return UnreadableError(f"{self.path} is truncated or damaged: it ends within its header; fetch it again.")

    def string(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "surrogateescape")

    def key_value(self) -> KeyValue:
        key, kind = self.string(), self.number("<I")
        if kind != GGUFValueType.ARRAY:
            return KeyValue(key, self.values(1, kind, key)[0], kind)
        item_type, count = self.number("<I"), self.number("<Q")
        return KeyValue(key, self.values(count, item_type, key), kind, item_type)

    def values(self, count: int, kind: int, key: str) -> list[Any]:
        if kind == GGUFValueType.STRING:
            if count * 8 > len(self.data) - self.at:
                raise self.ended()
            return [self.string() for _ in range(count)]
        if kind not in SCALAR_FORMATS:
            raise ValueError(f"{key} has a value of type {kind}")
        dtype = np.dtype("<" + SCALAR_FORMATS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, n_dims = self.string(), self.number("<I")
        if not 0 < n_dims <= _MAX_DIMENSIONS:
            raise ValueError(f"{name} has {n_dims} dimensions")
        shape = tuple(self.number("<Q") for _ in range(n_dims))[::-1]
        return name, shape, self.number("<I"), self.number("<Q")


def _block(kind: int, name: str) -> tuple[int, int]:
    if kind in TYPES_BY_ID:
        return TYPES_BY_ID[kind].block, TYPES_BY_ID[kind].block_bytes
    try:
        return GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError):
        raise InputError(f"The tensor {name} has the unknown ggml type {kind}; convert it to another type.") from None
