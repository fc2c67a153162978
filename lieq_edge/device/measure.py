"""Measure what a weight of each type costs on this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import astuple
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
from pydantic import ByteSize
from scipy.optimize import nnls

from ..gguf.types import CODEBOOK_TYPES, K_CANDIDATES, NARROW_CANDIDATES, SUPER_BLOCK, TYPES
from ..llama.library import supports
from ..llama.speed import Speed, measure_speed
from ..store import NO_CACHE, Cache, Entry, open_cache
from ..system.files import temporary_folder
from ..system.progress import log
from ..system.threads import available_threads
from .profile import BlockCost, Profile, TypeCost
from .repack import own_instructions
from .synthetic import Shape, write_synthetic

TYPE_NAMES = tuple(dict.fromkeys(("Q4_0", *K_CANDIDATES, *NARROW_CANDIDATES, *CODEBOOK_TYPES, "F16")))
"""Types that are measured unless others are asked for."""

# Matrices as wide as those of a model of 1B to 2B weights, and together larger than a processor's cache.
_WIDE = Shape(hidden=2048, inner=6144, heads=16, blocks=4)
# Blocks with next to no weights: what takes time there is everything else. Two depths, whose difference is the blocks'.
_SHALLOW, _DEEP = Shape(64, 64, 1, 4), Shape(64, 64, 1, 36)
# In between, for what grows with the width but is no product of weights.
_MIDDLE = Shape(512, 512, 8, 12)
# For a rough measurement, about as large as a processor's cache.
_SMALL = Shape(hidden=1024, inner=3072, heads=16, blocks=2)
_PROMPT, _ANSWER = 256, 32
_LEAST = 1e-6  # nanoseconds
_LABEL = "(this machine)"  # where `cache list` names the model of a result
_BUSY = 0.5


def measure_profile(
    *,
    name: str | None = None,
    types: Sequence[str] | None = None,
    threads: int | None = None,
    repeats: int = 3,
    cache: bool = False,
    cache_dir: Path | None = None,
    shape: Shape | None = None,
) -> Profile:
    """Measure this machine through llama.cpp, with models of random weights of one type each.

    Args:
        name: name of the profile; None takes one by the processor's instructions.
        types: types to measure; None takes ``TYPE_NAMES``.
        threads: CPU threads; all cores when None.
        repeats: measurements of each type, of which the quickest is taken.
        cache: True stores the times, by which exports without a device predict speed.
        cache_dir: folder of the cache; None takes ``LIEQ_CACHE_DIR`` or the platform's folder.
        shape: sizes of the models; None takes those of a model of 1B to 2B weights with fewer blocks.

    Raises:
        InputError: a number is below 1, or llama.cpp does not run the models.
        OSError: the disk for temporary files is full.
    """
    store = open_cache(cache_dir, threads=threads) if cache else NO_CACHE
    return _profile(name, types, threads, repeats, store, shape or _WIDE, again=True)


def own_profile(cache: Cache, types: Sequence[str], *, threads: int | None = None) -> Profile:
    """The profile of this machine for some types, from the cache where they were measured before.

    Args:
        cache: cache of the user, about no model.
        types: types that are needed.
        threads: CPU threads; all cores when None.
    """
    return _profile("this machine", types, threads, 2, cache, _WIDE, again=False)


def prompt_rate(kind: str, cache: Cache, *, threads: int | None = None) -> float:
    """Operations a second of llama.cpp on a prompt, with matrices of a type; from the cache where it was measured.

    It takes about two seconds, for estimates of time: a profile is more exact.

    Args:
        kind: ggml type.
        cache: cache of the user, about no model.
        threads: CPU threads; all cores when None.
    """
    timer = _Timer(threads or available_threads(), 2, cache, _SMALL, again=False)
    return timer.prompt_rate(kind)


def _profile(
    name: str | None,
    types: Sequence[str] | None,
    threads: int | None,
    repeats: int,
    cache: Cache,
    shape: Shape,
    *,
    again: bool,
) -> Profile:
    instructions, cores = own_instructions(), threads or available_threads()
    wanted = [kind for kind in (TYPE_NAMES if types is None else types) if supports(kind)]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    timer = _Timer(cores, repeats, cache, shape, again=again)
    block = timer.block()
    costs = {kind: timer.type(kind, block) for kind in wanted}
    memory = psutil.virtual_memory()
    busy = f", which was busy (load {load:.1f} at the start)" if load > _BUSY else ""
    if busy and timer.measured:
        log(f"Note: this machine was busy (load {load:.1f}) when its speed was measured; measure when it is idle.")
    family = "arm" if instructions.startswith("neon") else "x86" if instructions.startswith("avx") else "cpu"
    return Profile(
        name=name or f"{family}-{instructions.removeprefix('neon-')}",
        description=f"{platform.machine()} processor with {cores} thread{'s' * (cores > 1)}, measured.",
        memory=ByteSize(memory.total),
        system=ByteSize(memory.total - memory.available),
        threads=cores,
        instructions=instructions,
        types=costs,
        block=block,
        conditions=(
            f"Measured on {date.today().isoformat()} by lieq-edge bench --types with llama-cpp-python "
            f"{metadata.version('llama-cpp-python')} on {platform.system()}{busy}; the quickest of {repeats}."
        ),
    )


def _narrow(shape: Shape) -> Shape:
    """A model of about as many weights in narrower matrices."""
    hidden, inner = max(shape.hidden // 4, SUPER_BLOCK), max(shape.inner // 2, SUPER_BLOCK)
    return Shape(hidden, inner, max(hidden // 128, 1), 6 * shape.blocks)


def _times(system: npt.NDArray[np.float64], taken: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Times, none negative, that add up to those taken.

    Args:
        system: how often each time counts, ``(measurements, times)``.
        taken: what was measured, ``(measurements,)``.
    """
    scale = system[-1]
    times, _ = nnls(system / scale, np.maximum(taken, 0.0))
    return np.asarray(times / scale)


class _Timer:
    """Measures times, or finds them in the cache."""

    def __init__(self, threads: int, repeats: int, cache: Cache, shape: Shape, *, again: bool) -> None:
        self._threads, self._repeats, self._shape, self._again = threads, repeats, shape, again
        self._cache = cache.labelled(_LABEL)
        self._found: dict[tuple[str, Shape], tuple[float, float]] = {}
        self.measured = False

    def block(self) -> BlockCost:
        """Time of a block without its matrices, from models of one type and three widths."""
        shapes = [_SHALLOW, _MIDDLE, self._shape]
        # Unknown are a block's time, that of a column, and that of a weight.
        system = np.array([[1.0, shape.hidden, shape.weights / shape.blocks] for shape in shapes])
        found = []
        for kind in (0, 1):
            taken = [(self._seconds("Q8_0", shape)[kind] - self._constant(kind)) / shape.blocks for shape in shapes]
            found.append(_times(system, np.array(taken) * 1e9))
        prefill, decode = found
        return BlockCost(
            prefill=float(prefill[0]),
            decode=float(decode[0]),
            width_prefill=float(prefill[1]),
            width_decode=float(decode[1]),
        )

    def type(self, kind: str, block: BlockCost) -> TypeCost:
        """Time of a weight and of a row of a type, from a model of wide matrices and one of narrow ones."""
        shapes = [self._shape, _narrow(self._shape)]
        system = np.array([[shape.weights, shape.rows] for shape in shapes], np.float64)
        found = []
        for each in (0, 1):
            taken = [
                (self._seconds(kind, shape)[each] - self._constant(each)) * 1e9
                - shape.blocks * block.of(shape.hidden)[each]
                for shape in shapes
            ]
            found.append(_times(system, np.array(taken)))
        prefill, decode = found
        return TypeCost(
            prefill=max(float(prefill[0]), _LEAST),
            decode=max(float(decode[0]), _LEAST),
            row_prefill=float(prefill[1]),
            row_decode=float(decode[1]),
            source="measured by bench --types",
            estimated=False,
        )

    def prompt_rate(self, kind: str) -> float:
        """Operations a second of a prompt."""
        return 2.0 * self._shape.weights / self._seconds(kind, self._shape)[0]

    def _constant(self, kind: int) -> float:
        """Seconds a token that do not depend on the depth, e.g. the start of a graph: 0 for prompts, 1 for answers."""
        shallow, deep = (self._seconds("Q8_0", shape)[kind] for shape in (_SHALLOW, _DEEP))
        a_block = max(deep - shallow, 0.0) / (_DEEP.blocks - _SHALLOW.blocks)
        return shallow - _SHALLOW.blocks * a_block

    def _seconds(self, kind: str, shape: Shape) -> tuple[float, float]:
        """Seconds a token of a prompt and of an answer."""
        if (kind, shape) not in self._found:
            parts = {"type": kind, "threads": self._threads, "shape": list(astuple(shape))}
            entry = None if self._again else self._cache.get("type-speed", parts)
            if entry is None:
                speed = self._measure(kind, shape)
                entry = Entry({}, [1 / speed.prefill, 1 / speed.decode])
                self._cache.put("type-speed", parts, entry)
            prefill, decode = entry.record
            self._found[kind, shape] = float(prefill), float(decode)
        return self._found[kind, shape]

    def _measure(self, kind: str, shape: Shape) -> Speed:
        self.measured = True
        with temporary_folder() as folder:
            path = Path(folder) / f"{TYPES[kind].name}.gguf"
            write_synthetic(path, kind, shape)
            return measure_speed(
                path,
                prompt=_PROMPT,
                generated=_ANSWER,
                repeats=self._repeats,
                threads=self._threads,
                quickest=True,
                title=f"Measuring this machine ({kind})",
            )
