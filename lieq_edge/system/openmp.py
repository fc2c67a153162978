"""One OpenMP for llama.cpp and PyTorch, the one that PyTorch brings, with threads that wait for a short while only."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from pathlib import Path

_SPINS = "GOMP_SPINCOUNT"
# Turns that a thread without work spins before it sleeps: some ten microseconds. A block is a row of short steps, and
# where threads sleep at once (OMP_WAIT_POLICY=PASSIVE) it takes a fifth longer; with GNU's own 300,000 turns it takes
# three times as long on cores that another program uses too.
_TURNS = "10000"


def share_openmp() -> None:
    """Load PyTorch's OpenMP before any other library brings another one; PyTorch itself is not imported.

    On Linux llama.cpp and PyTorch both ask for ``libgomp.so.1``, and a process gives both the one that came first. How
    long its threads spin is read from the environment as it is loaded; what the user has set there stands. Where
    PyTorch brings no OpenMP of that name, what we set stays there for whichever is loaded later.
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
                    # It has been read. Other programs that are started from here know better themselves.
                    os.environ.pop(_SPINS, None)
