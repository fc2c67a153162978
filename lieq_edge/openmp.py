"""One OpenMP for llama.cpp and PyTorch, the one that PyTorch brings, with threads that wait for a short while only."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from pathlib import Path

# Turns that a thread without work spins before it sleeps: some ten microseconds. A block is a row of short steps, and
# where threads sleep at once (OMP_WAIT_POLICY=PASSIVE) it takes a fifth longer; with GNU's own 300,000 turns it takes
# three times as long on cores that another program uses too.
_SPINS = "GOMP_SPINCOUNT"
_TURNS = "10000"
_ASKED = (_SPINS, "OMP_WAIT_POLICY")


def share_openmp() -> None:
    """Load PyTorch's OpenMP before any other library brings another one; PyTorch itself is not imported.

    On Linux llama.cpp and PyTorch both ask for ``libgomp.so.1``, and a process gives both the one that came first. How
    long its threads spin is read from the environment as it is loaded; what the user has set there stands. Does nothing
    where PyTorch is missing or brings no OpenMP of that name.
    """
    spec = importlib.util.find_spec("torch")
    own = not any(name in os.environ for name in _ASKED)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, "lib").glob("libgomp.so*")):
            if own:
                os.environ[_SPINS] = _TURNS
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path))
            if own:
                # Other programs that are started from here know better themselves.
                del os.environ[_SPINS]
