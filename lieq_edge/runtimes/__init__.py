"""Runtimes of a model: PyTorch, block by block, or llama.cpp."""

from __future__ import annotations

from ..evidence.blocks.request import BlockMeasurements, BlockRequest
from ..evidence.importance.records import Importances
from ..sources.base import Source
from .base import Runtime
from .llama_cpp import LlamaRuntime
from .pytorch import TorchRuntime

__all__ = [
    "BlockMeasurements",
    "BlockRequest",
    "Importances",
    "LlamaRuntime",
    "Runtime",
    "TorchRuntime",
    "open_runtime",
]


def open_runtime(source: Source, *, threads: int | None = None) -> Runtime:
    """The PyTorch runtime if transformers knows the model, else the llama.cpp runtime."""
    kind = TorchRuntime if source.in_transformers else LlamaRuntime
    return kind(source, threads=threads)
