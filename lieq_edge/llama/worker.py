"""The process in which llama.cpp runs; large arrays lie in memory that its parent sees too."""

from __future__ import annotations

from ..system import worker
from .shared_memory import SharedMemory


class Worker(worker.Worker):
    """The worker's side of the conversation.

    Attributes:
        memory: shared with the parent.
    """

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__()
        self.memory = memory
