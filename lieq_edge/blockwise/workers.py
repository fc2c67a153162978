"""Threads that work on tensors side by side, each with one thread of every library that it calls."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import scipy.linalg.lapack  # noqa: F401  loads scipy's own BLAS, which the controller has to find
import torch
from threadpoolctl import ThreadpoolController

from ..system.memory import WIDE
from .precision import fast_float32

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """As many threads as there are cores, unless told; a ``with`` block ends them.

    Rounding is a long row of small steps: library threads that share one step wait for each other most of the time, and
    those of several workers take the cores from each other. Besides, threads of BLAS and of PyTorch wait for work by
    spinning: for 40 ms after a product of BLAS those of PyTorch have half the cores. So within the ``with`` block BLAS
    has one thread, and large products are PyTorch's.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = threads or os.cpu_count() or 1
        # PyTorch's number of threads is each worker's own; that of the BLAS below numpy and scipy is the process's.
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        self._libraries = ThreadpoolController()
        self._threads = count
        self._within = contextlib.ExitStack()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``function`` of each item, in order."""
        return list(self._pool.map(function, items))

    def for_columns(self, columns: int) -> contextlib.AbstractContextManager[object]:
        """All threads for BLAS where H is so wide that each product is long."""
        if columns < WIDE:
            return contextlib.nullcontext()
        limited: contextlib.AbstractContextManager[object] = self._libraries.limit(
            limits=self._threads, user_api="blas"
        )
        return limited

    def __enter__(self) -> Workers:
        self._within.enter_context(self._libraries.limit(limits=1, user_api="blas"))
        self._within.enter_context(fast_float32())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._within.close()
