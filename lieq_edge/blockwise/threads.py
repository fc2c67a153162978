"""PyTorch's number of threads, which is a setting of the process.

PyTorch is imported by the first change of the setting, so that a context around work without PyTorch costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

# The number before the first change, while it is changed.
_before: list[int] = []


def use_threads(threads: int | None) -> None:
    """Let PyTorch use ``threads`` threads; None restores the number before the first call."""
    if threads is None and not _before:
        return
    import torch

    if threads is None:
        torch.set_num_threads(_before.pop())
    else:
        if not _before:
            _before.append(torch.get_num_threads())
        torch.set_num_threads(threads)


@contextlib.contextmanager
def restored_threads() -> Iterator[None]:
    """A context whose calls of ``use_threads`` end with it, after an error too; of nested ones, with the outermost."""
    outermost = not _before
    try:
        yield
    finally:
        if outermost:
            use_threads(None)
