"""Safetensors files of a Hugging Face directory, read one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ..base import Array
from ..checks import read_bytes

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

# Numbers, or bytes, that are taken at a time.
_PIECE = 1 << 22


@dataclass(frozen=True)
class StoredWeights:
    """A tensor in a safetensors file.

    Attributes:
        path: of the file.
        dtype: safetensors' name, e.g. ``BF16``.
        shape: numpy order.
        offset: of its first byte in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> Array:
        """The tensor as float32.

        Raises:
            InputError: its type is no floating-point type that is read.
        """
        if self.dtype not in _ITEM_BYTES:
            raise InputError(
                f"{self.path} holds weights of type {self.dtype}; only F32, F16 and BF16 are read: "
                "give the unquantised model."
            )
        count, size = prod(self.shape), _ITEM_BYTES[self.dtype]
        if self.dtype == "F32":
            return read_bytes(self.path, self.offset, count * size).view("<f4").reshape(self.shape)
        # In pieces, so that a large matrix takes little more memory than its float32 values.
        values = np.empty(count, np.float32)
        for start in range(0, count, _PIECE):
            part = values[start : start + _PIECE]
            raw = read_bytes(self.path, self.offset + start * size, part.size * size)
            if self.dtype == "F16":
                part[:] = raw.view("<f2")
            else:
                # The upper half of a float32's bits.
                bits = part.view(np.uint32)
                bits[:] = raw.view("<u2")
                bits <<= 16
        return values.reshape(self.shape)

    def rows(self, rows: slice) -> npt.NDArray[np.uint16]:
        """The bits of some rows of a matrix of 16 bits, ``(rows, columns)``."""
        columns = self.shape[1]
        start, stop, _ = rows.indices(self.shape[0])
        raw = read_bytes(self.path, self.offset + 2 * start * columns, 2 * (stop - start) * columns)
        return raw.view("<u2").reshape(-1, columns)

    def equals(self, other: StoredWeights) -> bool:
        """Whether ``other`` holds the same numbers; where both are stored alike, without either whole in memory."""
        if self.shape != other.shape:
            return False
        if type(self) is not StoredWeights or type(other) is not StoredWeights or self.dtype != other.dtype:
            return np.array_equal(self.read(), other.read())
        total = prod(self.shape) * _ITEM_BYTES.get(self.dtype, 0)
        pieces = ((start, min(_PIECE, total - start)) for start in range(0, total, _PIECE))
        return all(
            np.array_equal(
                read_bytes(self.path, self.offset + start, size), read_bytes(other.path, other.offset + start, size)
            )
            for start, size in pieces
        )


@dataclass(frozen=True)
class StackedWeights(StoredWeights):
    """Tensors of one shape that GGUF holds as one, stacked along a new first axis."""

    parts: tuple[StoredWeights, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[StoredWeights]) -> StackedWeights:
        """Stack ``parts``.

        Raises:
            InputError: they differ in shape.
        """
        first = parts[0]
        if any(part.shape != first.shape for part in parts):
            raise InputError(f"{first.path} holds heads or experts of different shapes; fetch it again.")
        return cls(first.path, first.dtype, (len(parts), *first.shape), first.offset, tuple(parts))

    def read(self) -> Array:
        return np.stack([part.read() for part in self.parts])


def has_files(directory: Path) -> bool:
    """Whether ``directory`` holds weights as safetensors at all."""
    return (directory / INDEX_FILE).is_file() or any(directory.glob("*.safetensors"))


def find_files(directory: Path) -> list[Path]:
    """The safetensors files of a model, as transformers chooses them.

    Raises:
        InputError: there are none, or one that the index names is missing.
    """
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    index = directory / INDEX_FILE
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index} cannot be read ({error}); fetch it again.") from error
        paths = [directory / name for name in names]
        for path in paths:
            if not path.is_file():
                raise InputError(f"{path} is missing, though {INDEX_FILE} names it; fetch the whole model.")
        return paths
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise InputError(_no_weights(directory))
    return paths


def _no_weights(directory: Path) -> str:
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in directory.glob(f"*.{suffix}"))
    if pickles:
        return (
            f"{directory} holds its weights as pickles ({pickles[0]}), which are not read, for they can run code; "
            "save the model as safetensors, or pass --allow-pickle (only tensors are loaded then)."
        )
    return f"{directory} holds no safetensors files; give the directory of a whole model."


def read_index(paths: list[Path]) -> dict[str, StoredWeights]:
    """All tensors of ``paths`` by name; headers only.

    Raises:
        InputError: a file is truncated or damaged.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, StoredWeights] = {}
    for path in paths:
        try:
            # The library checks the header against itself and the size of the file; it hands out no bfloat16
            # without torch, so the places are taken from the header here.
            with safe_open(path, framework="numpy"):
                pass
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path} is truncated or damaged ({error}); fetch it again.") from error
        for name, entry in header.items():
            if name != "__metadata__":
                start = 8 + length + entry["data_offsets"][0]
                found[name] = StoredWeights(path, entry["dtype"], tuple(entry["shape"]), start)
    return found
