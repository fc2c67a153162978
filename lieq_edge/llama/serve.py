"""Entry point of the worker process; it imports little, so that it starts soon. Imports llama.cpp."""

from __future__ import annotations

from . import continued, loaded, quantizer, rendering, reserved, timed, writer
from .shared_memory import SharedMemory
from .worker import Worker


def main(address: int | str) -> None:
    """Serve the parent process.

    Args:
        address: address of the shared memory.
    """
    modules = (continued, loaded, quantizer, rendering, reserved, timed, writer)
    Worker(SharedMemory(address)).serve({name: call for each in modules for name, call in each.FUNCTIONS.items()})
