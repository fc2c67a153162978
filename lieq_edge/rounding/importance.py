"""Importance: ggml's encoders weighted by the mean square of each input column, as llama.cpp's imatrix does."""

from __future__ import annotations

from collections.abc import Iterator

from ..allocation.plan import TensorPlan
from ..llama.encoders import Packed
from .base import Rounder, RoundingTask
from .encode import encode_tensors


class Importance(Rounder):
    """Each ggml block by itself, errors weighted by the importance of their columns."""

    name = "imatrix"
    weighs = True

    def encode(self, task: RoundingTask) -> Iterator[tuple[TensorPlan, Packed]]:
        return encode_tensors(task.source, task.plan, task.importances, threads=task.threads)
