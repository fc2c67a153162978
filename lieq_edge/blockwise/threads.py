"""PyTorch's number of threads, which is the process's."""

from __future__ import annotations

import torch

# The number before this package changed it, while it is changed.
_before: list[int] = []


def use_threads(threads: int | None) -> None:
    """Let PyTorch take so many threads; None gives it back the number that it had before the first call."""
    if threads is not None:
        if not _before:
            _before.append(torch.get_num_threads())
        torch.set_num_threads(threads)
    elif _before:
        torch.set_num_threads(_before.pop())
