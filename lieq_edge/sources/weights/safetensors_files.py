"""Safetensors files of a Hugging Face directory, read one tensor at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ...errors import InputError
from ...system.memory import is_memory_error
from ..base import Array
from ..checks import read_bytes
from ..plain_files import is_plain_file, read_json

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

_OTHERS = ("adapter_model.safetensors", "adapters.safetensors")
_MISTRAL = "consolidated"  # the same weights once more, under Mistral's own names
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}

# Numbers, or bytes, that are read at a time.
_PIECE = 1 << 22


@dataclass(frozen=True)
class StoredWeights:
    """A tensor in a safetensors file.

    Attributes:
        path: the file.
        dtype: safetensors' name of the type, e.g. ``BF16``.
        shape: numpy order.
        offset: place of its first byte in the file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> Array:
        """The tensor as float32.

        Raises:
            InputError: its type is not a floating-point type that is read.
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
    return is_plain_file(directory / INDEX_FILE) or bool(_loose(directory))


def find_files(directory: Path) -> list[Path]:
    """The safetensors files of a model, as transformers chooses them.

    Without ``model.safetensors`` and an index, which transformers would want, all files together are one model.

    Raises:
        InputError: there are none, one is missing, or there are two sets of them.
    """
    if is_plain_file(directory / SINGLE_FILE):
        return [directory / SINGLE_FILE]
    if is_plain_file(directory / INDEX_FILE):
        return indexed_files(directory / INDEX_FILE)
    paths = _loose(directory)
    if not paths:
        raise InputError(_no_weights(directory))
    _check_one_set(directory, paths)
    return paths


def indexed_files(index: Path) -> list[Path]:
    """The files that an index names, which lie beside it.

    Raises:
        InputError: the index is damaged, a file is missing, or lies elsewhere.
    """
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} cannot be read ({error}); fetch it again.") from error
    for name in names:
        if not isinstance(name, str) or "\0" in name or name in ("", ".", "..") or Path(name).name != name:
            raise InputError(f"{index} names {name!r}, which is not a file beside it; fetch the model again.")
        if not is_plain_file(index.parent / name):
            raise InputError(f"{index.parent / name} is missing, though {index.name} names it; fetch the whole model.")
    return [index.parent / name for name in names]


def _loose(directory: Path) -> list[Path]:
    """Safetensors files that are not known to be something else."""
    paths = sorted(path for path in directory.glob("*.safetensors") if path.name not in _OTHERS and is_plain_file(path))
    usual = [path for path in paths if not path.name.startswith(_MISTRAL)]
    return usual or paths


def _check_one_set(directory: Path, paths: list[Path]) -> None:
    """Refuse files of two sets of weights, and a set with a part missing.

    Raises:
        InputError: they are.
    """
    parts: dict[tuple[str, int], list[int]] = {}
    for path in paths:
        if match := _PART.fullmatch(path.name):
            parts.setdefault((match["stem"], int(match["count"])), []).append(int(match["number"]))
    if len(parts) > 1:
        first, second = (f"{stem}-*-of-{count:05d}.safetensors" for stem, count in sorted(parts)[:2])
        raise InputError(_two_sets(directory, first, second))
    for (stem, count), numbers in parts.items():
        missing = next((number for number in range(1, count + 1) if number not in numbers), None)
        if missing is not None:
            name = f"{stem}-{missing:05d}-of-{count:05d}.safetensors"
            raise InputError(f"{directory / name} is missing, though other parts are there; fetch the whole model.")
    names: dict[str, Path] = {}
    for path in paths:
        for name in read_index([path]):
            if name in names:
                raise InputError(_two_sets(directory, names[name].name, path.name))
            names[name] = path


def _two_sets(directory: Path, first: str, second: str) -> str:
    return (
        f"{directory} holds two sets of weights without an index ({first} and {second}); remove the one that does not "
        "count."
    )


def _no_weights(directory: Path) -> str:
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth") for path in directory.glob(f"*.{suffix}"))
    if pickles:
        return (
            f"{directory} holds its weights as pickles ({pickles[0]}), which are not read because they can run code; "
            "save the model as safetensors, or pass --allow-pickle (only tensors are loaded then)."
        )
    return f"{directory} holds no safetensors files; give the directory of a whole model."


def read_index(paths: list[Path]) -> dict[str, StoredWeights]:
    """All tensors of ``paths`` by name; headers only.

    Raises:
        InputError: a file is truncated or damaged.
    """
    tensors: dict[str, StoredWeights] = {}
    for path in paths:
        if not is_plain_file(path):
            raise InputError(f"{path} is missing; fetch the whole model.")
        try:
            # The library checks the header against itself and the size of the file; it hands out no bfloat16
            # without torch, so the places are taken from the header here.
            with safe_open(path, framework="numpy"):
                pass
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            if is_memory_error(error):
                raise
            raise InputError(f"{path} is truncated or damaged ({error}); fetch it again.") from error
        for name, entry in header.items():
            if name != "__metadata__":
                start = 8 + length + entry["data_offsets"][0]
                tensors[name] = StoredWeights(path, entry["dtype"], tuple(entry["shape"]), start)
    return tensors
