"""A short measurement of this machine, for estimates of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

from ..llama.encoders import encode

_SIZE = 1024
_OPERATIONS = 2.0 * _SIZE**3
_FLOATS = 1 << 22
_LEAST_SECONDS = 0.1
ROUNDS = 2
"""Rounds of a measurement: something else may take half of the machine for longer than one of them lasts."""

_ROWS, _COLUMNS = 64, 2048


@dataclass(frozen=True)
class Machine:
    """Rates of this machine.

    Attributes:
        quick: products as measurements use them, in bfloat16 where it is faster, operations a second.
        exact: products in float32, operations a second.
        stream: float32 values a second that one pass over an array takes, as activations and norms are computed.
        encode: weights a second that ggml's Q4_K encoder takes in one thread.
    """

    quick: float
    exact: float
    stream: float
    encode: float


def measure_machine(threads: int | None, *, rounds: int = ROUNDS) -> Machine:
    """Measure for about half a second a round, in PyTorch.

    Args:
        threads: number of CPU threads, None for all cores.
        rounds: measurements, of which the best counts.
    """
    import torch

    from ..blockwise.precision import fast_float32, has_bfloat16
    from ..blockwise.threads import use_threads

    use_threads(threads)
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, _SIZE, _SIZE, generator=generator)
    coarse = (left.bfloat16(), right.bfloat16()) if has_bfloat16() else None
    values = torch.rand(_FLOATS, generator=generator)

    def rates() -> Machine:
        exact = quick = _OPERATIONS / _seconds(lambda: left @ right)
        if coarse is not None:
            quick = _OPERATIONS / _seconds(lambda: coarse[0] @ coarse[1])
        stream = _FLOATS / _seconds(lambda: torch.nn.functional.silu(values))
        return Machine(quick, exact, stream, _encode_rate())

    with torch.no_grad(), fast_float32():
        return _best(rates, rounds)


def measure_without_pytorch(*, rounds: int = ROUNDS) -> Machine:
    """The same by NumPy, which knows no bfloat16: PyTorch takes seconds to import."""
    left, right = np.random.default_rng(0).random((2, _SIZE, _SIZE), np.float32)
    values = np.random.default_rng(0).random(_FLOATS, np.float32)

    def rates() -> Machine:
        rate = _OPERATIONS / _seconds(lambda: left @ right)
        return Machine(rate, rate, _FLOATS / _seconds(lambda: values / (1 + np.exp(-values))), _encode_rate())

    return _best(rates, rounds)


def _best(rates: Callable[[], Machine], rounds: int) -> Machine:
    """The best of several rounds, rate by rate."""
    measured = [astuple(rates()) for _ in range(rounds)]
    return Machine(*map(max, zip(*measured, strict=True)))


def _encode_rate() -> float:
    weights = np.random.default_rng(0).standard_normal((_ROWS, _COLUMNS), np.float32)
    importance = np.ones(_COLUMNS, np.float32)
    return weights.size / _seconds(lambda: encode(weights, "Q4_K", importance))


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
