"""ggml's own block encoders and decoders, called through the library that llama-cpp-python brings."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..ggml_types import TYPES

Packed = npt.NDArray[np.uint8]

NEVER_WITHOUT_IMPORTANCE = frozenset({"IQ2_XXS", "IQ2_XS"})
"""Types for which ggml ends the process where there is no importance (``ggml_quantize_requires_imatrix``)."""

_FLOAT_P = ctypes.POINTER(ctypes.c_float)
# Rows are handed to threads in pieces of about this many weights: long enough to hide the hand-over,
# short enough to keep all threads busy to the end of a tensor.
_PIECE = 1 << 18


@cache
def library() -> ctypes.CDLL:
    """The loaded ggml, with the signatures of the functions that are used here."""
    from llama_cpp._ggml import libggml

    lib: ctypes.CDLL = libggml
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        _FLOAT_P,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        _FLOAT_P,
    ]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_quantize_init.restype = None
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return lib


class _TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits`` of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, _FLOAT_P, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


def supports(type_name: str) -> bool:
    """True when the loaded ggml knows the type, with the block size that this project expects."""
    kind = TYPES[type_name]
    try:
        traits = library().ggml_get_type_traits(kind.id).contents
    except ValueError:
        return False
    return bool(traits.blck_size == kind.block and traits.type_size == kind.block_bytes)


def encode(
    array: npt.NDArray[np.float32],
    type_name: str,
    importance: npt.NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> Packed:
    """Encode rows into ggml blocks (``ggml_quantize_chunk``).

    Args:
        array: float32 ``(rows, columns)``; ``columns`` a multiple of the type's block.
        type_name: a name in ``ggml_types.TYPES``.
        importance: float32 ``(columns,)``, weight of each column's squared error (llama.cpp's imatrix), or None.
        threads: rows are spread over so many threads (ctypes releases the GIL); the bytes do not depend on it.

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
    weights_pointer = weights.ctypes.data_as(_FLOAT_P) if weights is not None else None

    def piece(start: int, count: int) -> None:
        lib.ggml_quantize_chunk(
            kind.id,
            source[start : start + count].ctypes.data_as(_FLOAT_P),
            out[start : start + count].ctypes.data_as(ctypes.c_void_p),
            0,
            count,
            columns,
            weights_pointer,
        )

    step = max(1, _PIECE // columns)
    spans = [(start, min(step, rows - start)) for start in range(0, rows, step)]
    workers = threads or os.cpu_count() or 1
    if workers == 1 or len(spans) == 1:
        for span in spans:
            piece(*span)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda span: piece(*span), spans))
    return out


def dequantize(packed: Packed, type_name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Decode ggml blocks with ggml's own decoder.

    Args:
        packed: uint8, the rows of a tensor as ``encode`` gives them.
        type_name: a name in ``ggml_types.TYPES``.
        shape: ``(rows, columns)``.

    Returns:
        float32 ``(rows, columns)``.
    """
    kind = TYPES[type_name]
    source = np.ascontiguousarray(packed)
    if source.nbytes != kind.nbytes(shape):
        raise ValueError(f"{source.nbytes} bytes are not a {type_name} tensor of shape {shape}")
    if type_name == "F32":
        return source.view(np.float32).reshape(shape).copy()
    out = np.empty(shape, dtype=np.float32)
    traits = library().ggml_get_type_traits(kind.id).contents
    traits.to_float(source.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(_FLOAT_P), out.size)
    return out
