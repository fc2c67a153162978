"""The memory that llama.cpp takes for a model: what it would allocate, and what it does allocate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..gguf.splits import first_part
from ..gguf.types import TYPES
from ..system.files import user_path
from ..system.threads import available_threads
from .child import Child, encoded_path, shared
from .limits import LOAD_SECONDS, load_seconds, run_seconds
from .model_file import check_file, check_positions

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "iq4_nl", "q4_1", "q4_0")
"""Types of keys and values, as llama.cpp's ``--cache-type-k`` takes them."""


@dataclass(frozen=True)
class ContextMemory:
    """Bytes that a context takes beside the weights.

    Attributes:
        tokens: its length.
        cache_type: type of keys and values.
        cache: keys and values, and the states of recurrent blocks.
        compute: intermediate results of a batch, and the logits.
    """

    tokens: int
    cache_type: str
    cache: int
    compute: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.cache + self.compute


@dataclass(frozen=True)
class Occupied:
    """What llama.cpp allocated for a file and a context.

    Attributes:
        context: buffers of the context.
        weights: bytes of the weights, by the name of the buffer: ``CPU_Mapped``, ``CPU``, ``CPU_REPACK``.
        resident: bytes by which the process grew, mapped pages of the file included.
    """

    context: ContextMemory
    weights: dict[str, int]
    resident: int


def simulate_contexts(
    path: Path, wanted: Sequence[tuple[int, str]], *, label: str | None = None
) -> list[ContextMemory]:
    """What llama.cpp would allocate for contexts of a model, as its own ``--fit`` asks for it.

    Windowed, shared and recurrent memories are thus those of llama.cpp's graph, for every architecture that it runs.
    One sequence is counted (``--parallel 1``), batches as in llama-server, and logits of one token.

    Args:
        path: the file, or the first of several parts. Weights are not read: the file may have a hole in their place.
        wanted: tokens, and type of keys and values (one of ``CACHE_TYPES``), of each context.
        label: what messages call the file, by default its path.

    Raises:
        InputError: llama.cpp refuses the file or a context, with its reason, or ends on it.
    """
    label = label or str(path)
    child = shared()
    child.allow_memory(path)
    requests = [(tokens, _type_id(kind)) for tokens, kind in wanted]
    found = child.call(
        "simulate", encoded_path(path), label, requests, label=label, seconds=(1 + len(wanted)) * LOAD_SECONDS
    )
    return [_context(tokens, kind, buffers) for (tokens, kind), buffers in zip(wanted, found, strict=True)]


def measure_memory(
    path: str | Path,
    context: int,
    *,
    cache_type: str = "f16",
    mapped: bool = True,
    repacked: bool = True,
    threads: int | None = None,
) -> Occupied:
    """Load a file, fill a context with a prompt, and read what llama.cpp allocated from its log.

    Args:
        path: the file, or the first of several parts.
        context: tokens of the context.
        cache_type: type of keys and values.
        mapped: the file is mapped, and not read.
        repacked: types for which this processor has kernels get another layout.
        threads: CPU threads; all cores when None.

    Raises:
        InputError: the file is missing, or llama.cpp refuses it or ends on it.
    """
    path = first_part(user_path(path))
    label = str(path)
    check_file(path, label)
    check_positions(path, label, context, "take a smaller context")
    options = {
        "context": context,
        "kind": _type_id(cache_type),
        "threads": threads or available_threads(),
        "mapped": mapped,
        "repacked": repacked,
    }
    child = Child()
    try:
        child.allow_memory(path)
        seconds = load_seconds(path) + run_seconds(path, context)
        answer = child.call("occupy", encoded_path(path), label, options, label=label, seconds=seconds)
    finally:
        child.kill()
    buffers = answer["buffers"]
    weights = {name: size for name, size in buffers.items() if name not in ("cache", "compute", "output")}
    return Occupied(_context(context, cache_type, buffers), weights, answer["resident"])


def processor_features() -> frozenset[str]:
    """Instructions and options that llama.cpp has on this machine, in its words, e.g. ``AVX2`` and ``REPACK``."""
    line: str = shared().call("system_info", label="the processor", seconds=LOAD_SECONDS)
    return named_features(line)


def named_features(line: str) -> frozenset[str]:
    """What llama.cpp's line about a system has set, e.g. ``NEON = 1 | DOTPROD = 1``."""
    return frozenset(re.findall(r"(\w+) = 1", line))


def _context(tokens: int, kind: str, buffers: dict[str, int]) -> ContextMemory:
    if "compute" not in buffers:
        raise InputError(
            "This llama.cpp does not log the sizes of its buffers; install llama-cpp-python 0.3.35 or newer."
        )
    return ContextMemory(
        tokens, kind, cache=buffers.get("cache", 0), compute=buffers["compute"] + buffers.get("output", 0)
    )


def _type_id(name: str) -> int:
    if name not in CACHE_TYPES:
        raise InputError(f"llama.cpp has no key-value cache of type {name}; choose one of {', '.join(CACHE_TYPES)}.")
    return TYPES[name.upper()].id
