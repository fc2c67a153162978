"""The ggml library that llama-cpp-python brings, and its decoders of every storage type."""

from __future__ import annotations

import ctypes
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gguf.types import TYPES

Packed = npt.NDArray[np.uint8]

FLOAT_P = ctypes.POINTER(ctypes.c_float)

# ``GGML_TYPE_COUNT`` of the oldest llama.cpp that is supported: its Python binding names fewer types than it has.
_OLDEST_COUNT = 40


class _TypeTraits(ctypes.Structure):
    """``struct ggml_type_traits`` of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, FLOAT_P, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


@cache
def _load() -> tuple[ctypes.CDLL, int]:
    """The library, and how many types it has."""
    from llama_cpp import GGML_TYPE_COUNT
    from llama_cpp._ctypes_extensions import load_shared_library
    from llama_cpp._ggml import libggml, libggml_base_path

    lib: ctypes.CDLL = libggml
    if not hasattr(lib, "ggml_quantize_chunk"):  # Windows looks for a function in the named library alone
        lib = load_shared_library("ggml-base", libggml_base_path)
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        FLOAT_P,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        FLOAT_P,
    ]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_init.argtypes = [ctypes.c_int]
    lib.ggml_quantize_init.restype = None
    lib.ggml_get_type_traits.argtypes = [ctypes.c_int]
    lib.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return lib, max(GGML_TYPE_COUNT, _OLDEST_COUNT)


def library() -> ctypes.CDLL:
    """The loaded ggml, with the signatures of the functions that are used here."""
    return _load()[0]


def _traits(kind: int) -> Any:
    """ggml's traits of a type number; None for a type that it does not have (it would read past its table)."""
    lib, count = _load()
    if not 0 <= kind < count:
        return None
    traits = lib.ggml_get_type_traits(kind).contents
    return traits if traits.blck_size > 0 else None


def supports(type_name: str) -> bool:
    """True when the loaded ggml knows the type, with the block size that this project expects."""
    kind = TYPES[type_name]
    traits = _traits(kind.id)
    return traits is not None and bool(traits.blck_size == kind.block and traits.type_size == kind.block_bytes)


def block_sizes(name: str) -> tuple[int, int]:
    """Weights in a block of the type that ggml calls ``name``, e.g. ``q4_K``, and bytes of the block.

    Raises:
        KeyError: the loaded ggml has no such type.
    """
    return _sizes_by_name()[name]


@cache
def _sizes_by_name() -> dict[str, tuple[int, int]]:
    found = (_traits(kind) for kind in range(_load()[1]))
    return {traits.type_name.decode(): (traits.blck_size, traits.type_size) for traits in found if traits is not None}


def can_decode(kind: int) -> bool:
    """True when ``decode`` reads the type with that number."""
    traits = _traits(kind)
    return kind == TYPES["F32"].id or (traits is not None and bool(traits.to_float))


def decode(raw: Packed, kind: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Decode a tensor with ggml's own decoder (``to_float`` of its type).

    Args:
        raw: bytes of the tensor, uint8 of any shape.
        kind: value of ``enum ggml_type``, one that ``can_decode`` knows.
        shape: shape of the tensor, numpy order.

    Returns:
        float32 of ``shape``; for F32 it may share memory with ``raw``.

    Raises:
        ValueError: the bytes are not those of such a tensor.
    """
    source = np.ascontiguousarray(raw)
    traits = _traits(kind)
    if traits is None or source.nbytes != prod(shape) // traits.blck_size * traits.type_size:
        raise ValueError(f"{source.nbytes} bytes are not a tensor of type {kind} and shape {shape}")
    if kind == TYPES["F32"].id:
        return source.reshape(-1).view("<f4").reshape(shape)
    out = np.empty(shape, dtype=np.float32)
    traits.to_float(source.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(FLOAT_P), out.size)
    return out


def dequantize(packed: Packed, type_name: str, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Decode ggml blocks into an array of its own.

    Args:
        packed: uint8, the rows of a tensor as ``encoders.encode`` returns them.
        type_name: a name in ``gguf.types.TYPES``.
        shape: ``(rows, columns)``.

    Returns:
        float32 ``(rows, columns)``.
    """
    decoded = decode(packed, TYPES[type_name].id, shape)
    return decoded.copy() if np.may_share_memory(decoded, packed) else decoded
