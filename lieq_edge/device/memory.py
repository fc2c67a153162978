"""The memory that a file takes in llama.cpp on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..gguf.container import padded
from ..gguf.names import EMBEDDING
from ..gguf.storage import storage_type
from ..llama.memory import ContextMemory
from .pace import Matrix, Work
from .repack import Instructions, is_repacked

Loading = Literal["mapped", "read", "plain"]
"""Ways to load a file, in llama.cpp's words: its default, ``--load-mode none``, and ``--no-repack``."""

LOADINGS: tuple[Loading, ...] = ("mapped", "read", "plain")

FLAGS: dict[Loading, tuple[str, ...]] = {"mapped": (), "read": ("--load-mode none",), "plain": ("--no-repack",)}
"""llama.cpp's flags of each way."""

# What llama.cpp's process grew by beside the buffers that it logs (docs/method.md has the table): graphs and threads,
# and a tokenizer's maps for each token and each merge.
_RUN_BYTES = 11_000_000
_TOKEN_BYTES, _MERGE_BYTES = 170, 145


@dataclass(frozen=True)
class WeightMemory:
    """Bytes of the weights in memory, by the way to load them.

    Attributes:
        mapped: the mapped file, and the copies in another layout; the system may take the mapped pages back.
        read: the file is read, and each matrix stored in one layout only. An embedding that is also the head is stored
            in both, because rows are looked up in the original one.
        plain: the mapped file alone, all in its own layout: prompts are slower.
    """

    mapped: int
    read: int
    plain: int

    def of(self, loading: Loading) -> int:
        """Bytes of one of the ways."""
        size: int = getattr(self, loading)
        return size

    @property
    def has_copies(self) -> bool:
        """Some matrices get another layout."""
        return self.mapped > self.plain


def weight_memory(tensors: Sequence[Matrix], work: Work, instructions: Instructions) -> WeightMemory:
    """The memory of a model's weights.

    Args:
        tensors: all tensors.
        work: which of them a token is multiplied with; others keep their layout.
        instructions: those of the processor.
    """
    total = copies = twice = 0
    for tensor in tensors:
        size = storage_type(tensor.type).nbytes(tensor.shape)
        total += padded(size)
        if work.weights(tensor.name, tensor.shape) and is_repacked(tensor.type, tensor.shape, instructions):
            copies += size
            twice += size if tensor.name == EMBEDDING else 0
    return WeightMemory(mapped=total + copies, read=total + twice, plain=total)


def run_memory(tokens: int, merges: int) -> int:
    """Bytes that llama.cpp takes beside weights and context.

    Args:
        tokens: in the vocabulary.
        merges: of its tokenizer; 0 for one without.
    """
    return _RUN_BYTES + _TOKEN_BYTES * tokens + _MERGE_BYTES * merges


def least_loading(weights: WeightMemory, room: int) -> Loading | None:
    """The first way in the order of ``LOADINGS`` by which the weights fit into ``room`` bytes; None if none does."""
    return next((way for way in LOADINGS if weights.of(way) <= room), None)


def room_for_weights(spare: int, context: ContextMemory, run: int) -> int:
    """Bytes that are left for weights; below 0 if the context alone is too much."""
    return spare - context.total - run
