"""Threads that work on tensors side by side, each with one thread of every library that it calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import scipy.linalg.lapack  # noqa: F401  loads scipy's own BLAS, so that the controller finds it
import torch
from threadpoolctl import ThreadpoolController

from ..system.memory import WIDE
from ..system.threads import available_threads
from .precision import fast_float32

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A pool of threads, by default one per core; a ``with`` block ends them.

    Rounding is a sequence of many small steps. Library threads that share one step mostly wait for each other, and
    those of several workers compete for the cores; waiting threads of BLAS and of PyTorch also spin and take cores from
    the other library. So within the ``with`` block BLAS has one thread, and large products are left to PyTorch.
    """

    def __init__(self, threads: int | None = None) -> None:
        count = threads or available_threads()
        # PyTorch's number of threads is set per worker; that of the BLAS of numpy and scipy holds for the process.
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        self._libraries = ThreadpoolController()
        self._threads = count
        self._settings = contextlib.ExitStack()

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``function`` of each item, in order.

        Raises:
            Exception: the first error that ``function`` raised, by order of the items.
        """
        return list(self._pool.map(function, items))

    def for_columns(self, columns: int) -> contextlib.AbstractContextManager[object]:
        """A context that gives BLAS all threads if H has so many columns that each product takes long."""
        if columns < WIDE:
            return contextlib.nullcontext()
        limited: contextlib.AbstractContextManager[object] = self._libraries.limit(
            limits=self._threads, user_api="blas"
        )
        return limited

    def __enter__(self) -> Workers:
        with contextlib.ExitStack() as settings:
            settings.enter_context(self._libraries.limit(limits=1, user_api="blas"))
            settings.enter_context(fast_float32())
            self._settings = settings.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._pool.shutdown(cancel_futures=True)
        finally:
            self._settings.close()
            # The last number that any thread has set is PyTorch's default for new threads: here, 1 by the workers.
            torch.set_num_threads(torch.get_num_threads())
