"""PyTorch and llama.cpp share PyTorch's OpenMP, though llama.cpp is loaded first."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import lieq_edge.ggml, sys
assert "torch" not in sys.modules
lieq_edge.ggml.library()
import torch
print(*sorted({line.split()[-1] for line in open("/proc/self/maps") if "/libgomp.so" in line}), sep="\\n")
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="libraries are listed on Linux alone")
def test_llama_cpp_takes_the_openmp_of_pytorch() -> None:
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    own = list((Path(spec.origin).parent / "lib").glob("libgomp.so*"))
    if not own:
        pytest.skip("this PyTorch brings no OpenMP of its own")

    script = [sys.executable, "-c", _SCRIPT]
    loaded = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    assert loaded == [str(own[0].resolve())]
