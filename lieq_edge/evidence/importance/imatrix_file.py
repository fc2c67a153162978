"""Importance from the files of llama.cpp's ``llama-imatrix``, as GGUF or in the older form."""

from __future__ import annotations

import hashlib
import struct
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import Keys

from ...errors import InputError
from ...gguf.header import read_header
from ...gguf.names import block_of
from ...llama import library as ggml
from ...sources.base import Source
from ...system.regular import read_regular
from ...texts.info import TextInfo
from .records import Importances, matrix_means

_SUMS, _COUNTS = ".in_sum2", ".counts"
_CHUNKS, _CHUNK_SIZE = "imatrix.chunk_count", "imatrix.chunk_size"

Sums = dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]
"""Sums of squares ``(matrices, columns)``, and numbers of inputs ``(matrices,)``, by tensor name."""


def read_content(path: Path) -> bytes:
    """The bytes of the file ``path``.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"Cannot read the importance matrix {path} ({error.strerror}); check the path.") from error


def read_imatrix(path: Path, source: Source) -> tuple[Importances, TextInfo]:
    """The importances of the matrices of ``source``, and a record of the file in the place of a text.

    Args:
        path: file of ``llama-imatrix``.
        source: model with the matrices.

    Returns:
        Importances as in ``records.Importances``; a matrix that no input reached gets the mean of the others of its
        tensor.

    Raises:
        InputError: the file is missing or damaged, or belongs to another model.
    """
    data = read_content(path)
    sums, tokens = _read_gguf(path, data) if data.startswith(b"GGUF") else _read_old(path, data)
    importances = {}
    wanted = [spec for spec in source.tensors() if not spec.kept and len(spec.shape) >= 2]
    for spec in wanted:
        if spec.name not in sums:
            continue
        totals, counts = sums[spec.name]
        matrices, columns = prod(spec.shape[:-2]), spec.shape[-1]
        if totals.size != matrices * columns:
            raise InputError(
                f"The importance matrix {path} has {totals.size} values for {spec.name}, whose inputs are "
                f"{matrices * columns}; it is of another model."
            )
        totals = totals.reshape(matrices, columns)
        if not np.isfinite(totals).all() or totals.min() < 0:
            raise InputError(f"The importance matrix {path} has no valid values for {spec.name}; make it again.")
        counts = np.broadcast_to(counts, matrices) if len(counts) == 1 else counts
        if counts.any():
            importances[spec.name] = matrix_means(spec.name, totals, counts, several=len(spec.shape) > 2)
    lacking = [spec.name for spec in wanted if block_of(spec.name) is not None and spec.name not in importances]
    if lacking:
        raise InputError(
            f"The importance matrix {path} has no values for {lacking[0]}; it is of another model or a short text."
        )
    return importances, TextInfo(path.name, hashlib.sha256(data).hexdigest(), tokens)


def _read_gguf(path: Path, data: bytes) -> tuple[Sums, int]:
    """A GGUF file with ``NAME.in_sum2`` and ``NAME.counts`` for each tensor."""
    header = read_header(path)
    if header.get(Keys.General.TYPE) != "imatrix":
        raise InputError(f"{path} is a GGUF file but not an importance matrix; give one that llama-imatrix made.")
    raw = np.frombuffer(data, np.uint8)
    values = {
        tensor.name: ggml.decode(raw[tensor.offset : tensor.offset + tensor.nbytes], tensor.type, tensor.shape)
        for tensor in header.tensors
    }
    tensors: Sums = {}
    for name, sums in values.items():
        if name.endswith(_SUMS):
            base = name.removesuffix(_SUMS)
            if (counts := values.get(base + _COUNTS)) is None:
                raise InputError(f"The importance matrix {path} has no counts for {base}; make it again.")
            tensors[base] = sums.astype(np.float64), counts.reshape(-1).astype(np.int64)
    return tensors, int(header.get(_CHUNKS, 0)) * int(header.get(_CHUNK_SIZE, 0))


def _read_old(path: Path, data: bytes) -> tuple[Sums, int]:
    """The form before GGUF: for each tensor its name, a number of calls and the means times that number."""
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        if size < 0 or at + size > len(data):
            raise InputError(f"{path} is not an importance matrix of llama.cpp, or is damaged; make it again.")
        at += size
        return data[at - size : at]

    def number() -> int:
        (value,) = struct.unpack("<i", take(4))
        return int(value)

    tensors: Sums = {}
    for _ in range(number()):
        name = take(number()).decode("utf-8", "replace")
        calls, count = number(), number()
        values = np.frombuffer(take(4 * count), "<f4").astype(np.float64)
        tensors[name] = values, np.array([max(calls, 1)])
    if not tensors:
        raise InputError(f"The importance matrix {path} is empty; make it again.")
    return tensors, 0
