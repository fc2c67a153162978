"""ggml's tensors as they lie in memory, compared with the installed ggml before they are read."""

from __future__ import annotations

import ctypes
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .library import library

F32 = 0


class NotSeen(InputError):
    """The model runs, but the inputs of its matrices cannot be seen."""


class Tensor(ctypes.Structure):
    """``struct ggml_tensor`` of ggml.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    ]

    def values(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The values in memory, ``(ne3, ne2, ne1, ne0)``, without a copy."""
        kind = np.dtype(dtype)
        shape, strides = tuple(self.ne)[::-1], tuple(self.nb)[::-1]
        size = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + kind.itemsize
        memory = (ctypes.c_char * size).from_address(self.data)
        return np.ndarray(shape, kind, memory, 0, strides)


class _InitParams(ctypes.Structure):
    """``struct ggml_init_params`` of ggml.h."""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (_POINTER, [_InitParams]),
    "ggml_free": (None, [_POINTER]),
    "ggml_new_tensor_2d": (_POINTER, [_POINTER, ctypes.c_int, _INT64, _INT64]),
    "ggml_mul_mat": (_POINTER, [_POINTER, _POINTER, _POINTER]),
    "ggml_set_name": (_POINTER, [_POINTER, ctypes.c_char_p]),
    "ggml_get_data": (_POINTER, [_POINTER]),
    "ggml_nelements": (_INT64, [_POINTER]),
    "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
}

_checked = False


def check_layout() -> None:
    """Make a small product of matrices in ggml and compare it with the structure described here, once.

    Raises:
        NotSeen: they differ.
    """
    global _checked
    if _checked:
        return
    lib = _declared()
    context = lib.ggml_init(_InitParams(1 << 16, None, False))
    weight, inputs = (lib.ggml_new_tensor_2d(context, F32, 8, rows) for rows in (5, 3))
    pointer = lib.ggml_mul_mat(context, weight, inputs)
    lib.ggml_set_name(pointer, b"product")
    product = Tensor.from_address(pointer)
    described = (
        product.name,
        product.data,
        prod(product.ne),
        tuple(product.ne),
        tuple(product.src[:3]),
        product.op,
        Tensor.from_address(weight).data,
    )
    expected = (
        b"product",
        lib.ggml_get_data(pointer),
        lib.ggml_nelements(pointer),
        (5, 3, 1, 1),
        (weight, inputs, None),
        operation(b"MUL_MAT"),
        lib.ggml_get_data(weight),
    )
    lib.ggml_free(context)
    if described != expected:
        raise NotSeen(
            "This llama.cpp keeps its tensors in another layout than is known here, so the model cannot be measured "
            "through it; install llama-cpp-python 0.3.36, or pass --imatrix, or --calibration none with --levels 3,4."
        )
    _checked = True


@cache
def operation(name: bytes) -> int:
    """The number of an operation, which differs between versions of ggml."""
    lib = _declared()
    return next(number for number in range(256) if lib.ggml_op_name(number) == name)


@cache
def _declared() -> ctypes.CDLL:
    lib = library()
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib
