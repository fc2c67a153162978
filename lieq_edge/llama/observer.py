"""Inputs of the matrices of a graph, as llama.cpp's evaluation callback sees them. Imports llama.cpp."""

from __future__ import annotations

from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from .layout import F32, Tensor, operation
from .shared_memory import SIZE
from .worker import Worker


class Observer:
    """The callback before and after each operation (``cb_eval``), which reports inputs of matrices as events.

    An event is ``["inputs", name of the matrix, shape, which of the tensor's matrices, first row, rows]``, the rows lie
    in the shared memory.
    """

    def __init__(self, worker: Worker, names: list[str]) -> None:
        self._worker = worker
        self._names = {name.encode(): name for name in names}
        self._product, self._expert_product = operation(b"MUL_MAT"), operation(b"MUL_MAT_ID")
        self._error: Exception | None = None
        self.callback = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(self._call)

    def raise_error(self) -> None:
        """Raise the error that stopped a run."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _call(self, pointer: int, ask: bool, _: object) -> bool:
        # An exception must not go through C.
        try:
            tensor = Tensor.from_address(pointer)
            name = self._matrix(tensor)
            if ask or name is None:
                return name is not None
            self._see(name, tensor)
            return True
        except Exception as error:
            self._error = self._error or error
            return False

    def _matrix(self, tensor: Tensor) -> str | None:
        """The observed matrix that ``tensor`` is a product with."""
        if tensor.op not in (self._product, self._expert_product):
            return None
        # A view of a matrix, e.g. of the keys in a fused one, carries a remark behind its name.
        stored = Tensor.from_address(tensor.src[0]).name.partition(b" (")[0]
        if stored not in self._names or Tensor.from_address(tensor.src[1]).type != F32:
            return None
        return self._names[stored]

    def _see(self, name: str, tensor: Tensor) -> None:
        weight, inputs = (Tensor.from_address(tensor.src[i]) for i in (0, 1))
        x = inputs.values(np.float32)
        if tensor.op == self._expert_product:
            # x (1, T, 1 or experts of a token, columns), experts (T, experts of a token).
            experts = Tensor.from_address(tensor.src[2]).values(np.int32)[0, 0]
            for expert in np.unique(experts):
                token, place = np.nonzero(experts == expert)
                self._report(name, x[0, token, place % x.shape[2]], int(expert))
            return
        if weight.ne[2] * weight.ne[3] == 1:
            self._report(name, x.reshape(-1, x.shape[-1]), 0)
            return
        repeats = x.shape[1] // weight.ne[2]
        for index in range(x.shape[1]):
            self._report(name, x[:, index].reshape(-1, x.shape[-1]), index // repeats)

    def _report(self, name: str, x: npt.NDArray[Any], matrix: int) -> None:
        rows, columns = x.shape
        at_once = max(1, SIZE // (4 * columns))
        for start in range(0, rows, at_once):
            part = x[start : start + at_once]
            self._worker.memory.array(part.shape, np.float32)[:] = part
            self._worker.event("inputs", name, [rows, columns], matrix, start, len(part))
