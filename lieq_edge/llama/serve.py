"""Entry point of the worker process; it imports little, so that it starts soon. Imports llama.cpp."""

from __future__ import annotations

from . import loaded, quantizer, rendering, timed, writer
from .shared_memory import SharedMemory
from .worker import Worker


def main(address: int | str) -> None:
    """Serve the parent process.

    Args:
        address: address of the shared memory.
    """
    functions = (loaded.FUNCTIONS, quantizer.FUNCTIONS, rendering.FUNCTIONS, timed.FUNCTIONS, writer.FUNCTIONS)
    Worker(SharedMemory(address)).serve({name: function for each in functions for name, function in each.items()})
