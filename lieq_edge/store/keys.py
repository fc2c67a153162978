"""Keys: SHA-256 over everything that a result depends on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
"""Number of the layout of entries; another number makes everything in a cache unknown."""

Parts = Mapping[str, Any]
"""What a result depends on: JSON values, arrays and tensors, which are counted by their bytes."""

# By these PyTorch is told which instructions and how many threads to use.
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
# Beginnings of what a processor of Intel's kind calls its instructions for numbers. The others that the system lists
# change with its kernel.
_ARITHMETIC = ("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi")

_PACKAGES = ("torch", "transformers", "numpy", "llama-cpp-python")


def key_of(kind: str, parts: Parts) -> str:
    """The key of a result, 64 hexadecimal digits.

    Args:
        kind: of the result.
        parts: what it depends on.

    Raises:
        TypeError: a part has no canonical form.
        ValueError: a number is not finite.
    """
    return hashlib.sha256(canonical({"kind": kind, "parts": parts}).encode("utf-8")).hexdigest()


def canonical(value: Any) -> str:
    """JSON that is the same for equal values: sorted names, no spaces, ASCII, arrays by type, shape and SHA-256."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def array_hash(array: Any) -> str:
    """SHA-256 (hex) over type, shape and values of an array or a tensor of the CPU."""
    values = np.asarray(array)
    if values.dtype.hasobject:
        raise TypeError("an array of objects has no canonical form")
    # The byte order of the machine is no part of the values.
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


@functools.cache
def versions() -> dict[str, str]:
    """What else results depend on: the layout of entries, the packages that compute, and lieq-edge's own code.

    A digest of the code and not its version: what an older state of it made is not to be met after a change.
    """
    from importlib import metadata

    found = {name: metadata.version(name) for name in _PACKAGES}
    return {"format": str(FORMAT), "code": _code_digest(), **found}


def _code_digest() -> str:
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        # The command line decides nothing.
        if not name.startswith("cli/"):
            digest.update(f"{name}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def machine(threads: int | None) -> dict[str, Any]:
    """What sums of floating-point numbers depend on: the processor's instructions and the threads that share a sum.

    PyTorch is not asked, for its import takes longer than everything else where all results are there. What it goes by
    stands here instead.

    Args:
        threads: that torch was asked to use, None for its own choice.
    """
    return {
        "machine": platform.machine(),
        "instructions": _instructions(),
        "threads": threads,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "environment": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


@functools.cache
def _instructions() -> str:
    """What the processor can do where the system lists it, or else what it is called."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as listed:
        for line in listed:
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                listed_all = name.strip() == "Features"  # of ARM, which are all of this kind
                return " ".join(sorted(flag for flag in value.split() if listed_all or flag.startswith(_ARITHMETIC)))
    return platform.processor()
