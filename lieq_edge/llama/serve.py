"""Entry point of the worker process; it imports little, so that it starts soon. Imports llama.cpp."""

from __future__ import annotations

from .loaded import FUNCTIONS
from .shared_memory import SharedMemory
from .worker import Worker


def main(address: int | str) -> None:
    """Serve the parent process.

    Args:
        address: address of the shared memory.
    """
    Worker(SharedMemory(address)).serve(FUNCTIONS)
