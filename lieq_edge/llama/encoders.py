"""ggml's own block encoders, called through the library that llama-cpp-python brings; its decoders beside them."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..gguf.types import TYPES
from ..system.threads import available_threads
from .library import FLOAT_P, Packed, dequantize, library, supports

__all__ = ["NEVER_WITHOUT_IMPORTANCE", "Packed", "dequantize", "encode", "library", "supports"]

NEVER_WITHOUT_IMPORTANCE = frozenset({"IQ2_XXS", "IQ2_XS"})
"""Types for which ggml ends the process where there is no importance (``ggml_quantize_requires_imatrix``)."""

# Rows are handed to threads in pieces of about this many weights: long enough to hide the hand-over,
# short enough to keep all threads busy to the end of a tensor.
_PIECE = 1 << 18


def encode(
    array: npt.NDArray[np.float32],
    type_name: str,
    importance: npt.NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> Packed:
    """Encode rows into ggml blocks (``ggml_quantize_chunk``).

    Args:
        array: float32 ``(rows, columns)``; ``columns`` a multiple of the type's block.
        type_name: a name in ``gguf.types.TYPES``.
        importance: float32 ``(columns,)``, weight of each column's squared error (llama.cpp's imatrix), or None.
        threads: number of threads that share the rows (ctypes releases the GIL); the bytes do not depend on it.

    Returns:
        uint8 ``(rows, bytes of a row)``.

    Raises:
        InputError: the type does not fit the row length, or ggml does not write it without importance.
    """
    kind = TYPES[type_name]
    rows, columns = array.shape
    if not kind.fits(columns):
        raise InputError(f"{type_name} stores blocks of {kind.block} weights and does not fit rows of {columns}.")
    if importance is None and type_name in NEVER_WITHOUT_IMPORTANCE:
        raise InputError(f"{type_name} is not written without importance; calibrate or choose another type.")
    source = np.ascontiguousarray(array, dtype=np.float32)
    if type_name == "F32":
        return source.view(np.uint8).reshape(rows, columns * 4)
    if type_name == "F16":
        return source.astype(np.float16).view(np.uint8).reshape(rows, columns * 2)
    weights = None
    if importance is not None:
        if importance.shape != (columns,):
            raise ValueError(f"importance has shape {importance.shape}, the rows have {columns} columns")
        weights = np.ascontiguousarray(importance, dtype=np.float32)
    lib = library()
    # The i-quants build their tables on first use; doing it here keeps that out of the threads.
    lib.ggml_quantize_init(kind.id)
    out = np.empty((rows, columns // kind.block * kind.block_bytes), dtype=np.uint8)
    weights_pointer = weights.ctypes.data_as(FLOAT_P) if weights is not None else None

    def piece(start: int, count: int) -> None:
        lib.ggml_quantize_chunk(
            kind.id,
            source[start : start + count].ctypes.data_as(FLOAT_P),
            out[start : start + count].ctypes.data_as(ctypes.c_void_p),
            0,
            count,
            columns,
            weights_pointer,
        )

    step = max(1, _PIECE // columns)
    spans = [(start, min(step, rows - start)) for start in range(0, rows, step)]
    workers = threads or available_threads()
    if workers == 1 or len(spans) == 1:
        for span in spans:
            piece(*span)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda span: piece(*span), spans))
    return out
