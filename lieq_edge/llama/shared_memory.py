"""Memory that this process and its worker both see, through which large arrays go.

On Linux it is a file without a name, on macOS a temporary file that has lost its name, and on Windows named memory.
Nothing is left behind by a process that is killed.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import uuid
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 1 << 26
"""Bytes; only those that are used take memory."""


class SharedMemory:
    """A stretch of shared memory.

    Attributes:
        address: how a child process opens it: the number of a file that it inherits, or a name.
        files: numbers of the files that it has to inherit.
    """

    def __init__(self, address: int | str | None = None) -> None:
        """Open the memory of the parent process, or make a new one where there is no ``address``."""
        self.files: tuple[int, ...] = ()
        if sys.platform == "win32":
            self.address: int | str = address or f"lieq-{uuid.uuid4().hex}"
            self._map = mmap.mmap(-1, SIZE, tagname=str(self.address))
            return
        if address is None:
            self.address = _nameless_file()
            os.ftruncate(self.address, SIZE)
        else:
            self.address = int(address)
        self.files = (self.address,)
        self._map = mmap.mmap(self.address, SIZE)

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The array at the start of the memory, without a copy."""
        return np.ndarray(shape, dtype, self._map)

    def close_file(self) -> None:
        """Close the file once the child process has inherited it; the memory stays."""
        for number in self.files:
            os.close(number)
        self.files = ()


def _nameless_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("lieq", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
