"""Keys: SHA-256 over everything that a result depends on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from ..system.threads import available_threads
from .code import code_digest

FORMAT = 2
"""Number of the layout of entries; another number makes everything in a cache unknown."""

Parts = Mapping[str, Any]
"""What a result depends on: JSON values, arrays and tensors; the last two are represented by a hash of their bytes."""

# With these the user chooses PyTorch's instructions and threads.
_SETTINGS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "MKL_NUM_THREADS",
)
# Beginnings of the names of x86 instructions for numbers. The other names that Linux lists change with its version.
_ARITHMETIC = ("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi")

# Libraries that decide numbers: they compute, read weights, or make tokens. llama-cpp-python brings ggml.
_PACKAGES = (
    "gguf",
    "llama-cpp-python",
    "numba",
    "numpy",
    "safetensors",
    "scipy",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
)


def key_of(kind: str, parts: Parts) -> str:
    """The key of a result, 64 hexadecimal digits.

    Args:
        kind: kind of result.
        parts: everything that it depends on.

    Raises:
        TypeError: a part has no canonical form.
        ValueError: a number is not finite.
    """
    return hashlib.sha256(canonical({"kind": kind, "parts": parts}).encode("utf-8")).hexdigest()


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: sorted names, no spaces, ASCII, arrays by type, shape and SHA-256."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def array_hash(array: Any) -> str:
    """SHA-256 (hex) over type, shape and values of an array, or of a tensor in the CPU's memory."""
    values = np.asarray(array)
    if values.dtype.hasobject:
        raise TypeError("an array of objects has no canonical form")
    # The byte order of the machine is not part of the values.
    values = np.asarray(values, values.dtype.newbyteorder("<"), order="C")
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical form")
        return float(value)
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("names must be text")
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        # A list of the same items is something else.
        return {"set": sorted(canonical(item) for item in value)}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if hasattr(value, "__array__") and hasattr(value, "shape"):
        return {"array": array_hash(value)}
    raise TypeError(f"a {type(value).__name__} has no canonical form")


def versions(code: str | None = None) -> dict[str, str]:
    """What all results depend on: the layout of entries, the libraries that decide numbers, and lieq-edge's own code.

    Args:
        code: ``code_digest()`` where the caller has it; None computes it. A digest and not a version, so that results
            of other states of the code are not used.
    """
    return {"format": str(FORMAT), "code": code or code_digest(), **_library_versions()}


@functools.cache
def _library_versions() -> dict[str, str]:
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # installed under another name
            installed[name] = ""
    return installed


def machine(threads: int | None) -> dict[str, Any]:
    """What sums of floating-point numbers depend on: the processor's instructions and the threads that share a sum.

    PyTorch could be asked, but where all results are stored its import would take longer than everything else. What
    its choice depends on stands here instead.

    Args:
        threads: number that the user chose for PyTorch, None for its own choice.
    """
    return {
        "machine": platform.machine(),
        "instructions": _instructions(),
        "threads": threads,
        "cores": available_threads(),
        "environment": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


@functools.cache
def _instructions() -> str:
    """The processor's instructions for numbers: as Linux lists them, or those that numpy knows and finds."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    only_numbers = name.strip() == "Features"  # ARM lists no others
                    return " ".join(sorted(f for f in value.split() if only_numbers or f.startswith(_ARITHMETIC)))
    return _numpy_instructions()


def _numpy_instructions() -> str:
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    return " ".join([platform.processor(), *sorted({*extensions["baseline"], *extensions.get("found", ())})])
