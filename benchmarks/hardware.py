"""The highest rates of the machine: matrix products in float32 and bfloat16, and the disk.

    python -m benchmarks.hardware --work WORK

Prints one JSON object: GFLOP/s (a multiplication and an addition count as two) and GB/s.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import command_line
from benchmarks.internals import available_threads

SIZES = (1024, 2048, 4096)
_PIECE = 16 << 20


def best_seconds(work: Callable[[], object], seconds: float = 3.0, least: int = 3) -> float:
    """Seconds of the quickest run, of as many as fit into ``seconds`` and at least ``least``."""
    work()
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def product_rates(sizes: tuple[int, ...], threads: int, seconds: float) -> dict[str, float]:
    """GFLOP/s of square products by type and size, and the best of each type under its bare name.

    Products named ``oneDNN float32`` run in ``fast_float32``, which not every processor gains by.
    """
    import torch

    from benchmarks.internals import fast_float32

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    rates: dict[str, float] = {}
    kinds: tuple[tuple[str, torch.dtype, contextlib.AbstractContextManager[None]], ...] = (
        ("float32", torch.float32, contextlib.nullcontext()),
        ("oneDNN float32", torch.float32, fast_float32()),
        ("bfloat16", torch.bfloat16, contextlib.nullcontext()),
    )
    with torch.no_grad():
        for name, kind, within in kinds:
            with within:
                for size in sizes:
                    a, b = (torch.randn(size, size, generator=generator).to(kind) for _ in range(2))
                    out = torch.empty(size, size, dtype=kind)
                    taken = best_seconds(lambda a=a, b=b, out=out: torch.matmul(a, b, out=out), seconds)  # type: ignore[misc]
                    rates[f"{name} {size}"] = 2 * size**3 / taken / 1e9
            rates[name] = max(rate for key, rate in rates.items() if key.startswith(f"{name} "))
    return rates


def symmetric_rate(columns: int, rows: int, seconds: float) -> float:
    """GFLOP/s of X^T X by numpy, counted as the whole product, of which numpy computes half."""
    import numpy as np

    x = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    return 2 * rows * columns**2 / best_seconds(lambda: x.T @ x, seconds) / 1e9


def disk_rates(folder: Path, size: int) -> dict[str, float]:
    """GB/s of writing a new file to the disk, of reading it from there, and again from the system's cache."""
    path = folder / ".disk-rate"
    piece = os.urandom(_PIECE)
    pieces = max(1, size // _PIECE)
    try:
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(pieces):
                file.write(piece)
            os.fsync(file.fileno())
        rates = {"disk write": pieces * _PIECE / (time.perf_counter() - start) / 1e9}
        for name, cached in (("disk read", False), ("cached read", True)):
            with path.open("rb", buffering=0) as file:
                if not cached and hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                buffer = bytearray(_PIECE)
                start = time.perf_counter()
                while file.readinto(buffer):
                    pass
                rates[name] = pieces * _PIECE / (time.perf_counter() - start) / 1e9
    finally:
        path.unlink(missing_ok=True)
    return rates


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, "--work", "--threads", threads=available_threads())
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="rows and columns of the products")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds for each product")
    parser.add_argument("--disk-bytes", type=int, default=2 << 30, help="bytes of the file to write and read")
    args = parser.parse_args(arguments)
    rates = product_rates(tuple(args.sizes), args.threads, args.seconds)
    rates["float32 X^T X"] = symmetric_rate(args.sizes[-1] // 2, args.sizes[-1], args.seconds)
    rates |= disk_rates(args.work, args.disk_bytes)
    print(json.dumps(rates, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
