"""PyTorch and llama.cpp share PyTorch's OpenMP, though llama.cpp is loaded first."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lieq_edge.system.openmp import share_openmp

_SCRIPT = """
import lieq_edge.llama.library, os, sys
assert not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ)
assert "torch" not in sys.modules
lieq_edge.llama.library.library()
import torch
print(*sorted({line.split()[-1] for line in open("/proc/self/maps") if "/libgomp.so" in line}), sep="\\n")
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="libraries are listed on Linux alone")
def test_llama_cpp_takes_the_openmp_of_pytorch() -> None:
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    libraries = list((Path(spec.origin).parent / "lib").glob("libgomp.so*"))
    if not libraries:
        pytest.skip("this PyTorch brings no OpenMP of its own")

    script = [sys.executable, "-c", _SCRIPT]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    # The library tells what it was set to.
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    done = subprocess.run(script, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [str(libraries[0].resolve())]
    assert "GOMP_SPINCOUNT = '10000'" in done.stderr
    environment["GOMP_SPINCOUNT"] = "77"
    script[-1] = "import lieq_edge"
    done = subprocess.run(script, capture_output=True, text=True, check=True, env=environment)
    assert "GOMP_SPINCOUNT = '77'" in done.stderr


def test_where_pytorch_brings_none_the_setting_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for chosen, expected in (
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "77"}, {"GOMP_SPINCOUNT": "77"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ):
        monkeypatch.setattr(os, "environ", dict(chosen))
        share_openmp()
        assert os.environ == expected
