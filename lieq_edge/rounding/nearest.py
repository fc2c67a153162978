"""Nearest: ggml's encoders with equal weights for all columns."""

from __future__ import annotations

from collections.abc import Iterator

from ..allocation.plan import TensorPlan
from ..llama.encoders import Packed
from .base import Rounder, RoundingTask
from .encode import encode_tensors


class Nearest(Rounder):
    """Each ggml block by itself, all errors weighted alike; no text is needed."""

    name = "nearest"

    def encode(self, task: RoundingTask) -> Iterator[tuple[TensorPlan, Packed]]:
        return encode_tensors(task.source, task.plan, {}, threads=task.threads)
