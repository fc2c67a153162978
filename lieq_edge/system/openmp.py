"""One OpenMP for llama.cpp and PyTorch, the one that PyTorch brings, with threads that wait for a short while only."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from pathlib import Path

_SPINS = "GOMP_SPINCOUNT"
# Turns that a thread without work spins before it sleeps: about ten microseconds. Running a block takes many short
# steps; threads that sleep at once make it slower, and so do GNU's 300,000 turns on cores that are shared.
_TURNS = "10000"


def share_openmp() -> None:
    """Load PyTorch's OpenMP before any other library brings another one; PyTorch itself is not imported.

    On Linux llama.cpp and PyTorch both ask for ``libgomp.so.1``, and a process gives both the one that came first. How
    long its threads spin is read from the environment as it is loaded; a setting of the user's stays. Where PyTorch
    brings no OpenMP of that name, our setting stays for the one that is loaded later.
    """
    ours = _SPINS not in os.environ and "OMP_WAIT_POLICY" not in os.environ
    if ours:
        os.environ[_SPINS] = _TURNS
    spec = importlib.util.find_spec("torch")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, "lib").glob("libgomp.so*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path))
                if ours:
                    # It has been read, and programs that are started from here need not inherit it.
                    os.environ.pop(_SPINS, None)
