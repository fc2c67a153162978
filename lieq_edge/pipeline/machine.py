"""A short measurement of this machine, for estimates of time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import numpy as np
import torch

from ..blockwise.precision import fast_float32, has_bfloat16
from ..blockwise.threads import use_threads
from ..llama.encoders import encode
from .rates import Machine

_SIZE = 1024
_LEAST_SECONDS = 0.1
_ROWS, _COLUMNS = 64, 2048


@functools.lru_cache
def measure_machine(threads: int | None) -> Machine:
    """Measure for about half a second.

    Args:
        threads: number of CPU threads, None for all cores.
    """
    use_threads(threads)
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, _SIZE, _SIZE, generator=generator)
    operations = 2.0 * _SIZE**3
    with torch.no_grad(), fast_float32():
        exact = operations / _seconds(lambda: left @ right)
        quick = exact
        if has_bfloat16():
            left, right = left.bfloat16(), right.bfloat16()
            quick = operations / _seconds(lambda: left @ right)
    weights = np.random.default_rng(0).standard_normal((_ROWS, _COLUMNS), np.float32)
    counts = np.ones(_COLUMNS, np.float32)
    return Machine(quick, exact, weights.size / _seconds(lambda: encode(weights, "Q4_K", counts)))


def _seconds(work: Callable[[], object]) -> float:
    """Seconds of one piece of work: the least of several, because others may be at work on the machine."""
    work()
    times: list[float] = []
    until = time.monotonic() + _LEAST_SECONDS
    while len(times) < 3 or time.monotonic() < until:
        start = time.monotonic()
        work()
        times.append(time.monotonic() - start)
    return max(min(times), 1e-9)
