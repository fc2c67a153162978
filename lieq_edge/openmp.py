"""One OpenMP for llama.cpp and PyTorch: the one that PyTorch brings."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from pathlib import Path


def share_openmp() -> None:
    """Load PyTorch's OpenMP before any other library brings another one; PyTorch itself is not imported.

    On Linux llama.cpp and PyTorch both ask for ``libgomp.so.1``, and a process gives both the one that came first. With
    the system's, whose threads sleep as soon as a product is done, PyTorch's attention takes twice as long. Does
    nothing where PyTorch is missing or brings no OpenMP of that name.
    """
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, "lib").glob("libgomp.so*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path))
