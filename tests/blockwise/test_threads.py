"""Settings of the process that a run changes: threads of PyTorch and BLAS, and oneDNN's precision."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from threadpoolctl import ThreadpoolController

from lieq_edge.blockwise import precision
from lieq_edge.blockwise.threads import restored_threads, use_threads
from lieq_edge.blockwise.workers import Workers


def blas_threads() -> dict[str, int]:
    """Threads of each BLAS library of the process."""
    libraries = ThreadpoolController().select(user_api="blas").info()
    return {library["filepath"]: library["num_threads"] for library in libraries}


def settings() -> dict[str, Any]:
    """Every setting of the process, and PyTorch's number of threads in a new thread."""
    in_new_thread: list[int] = []
    thread = threading.Thread(target=lambda: in_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return {
        "torch": torch.get_num_threads(),
        "new thread": in_new_thread[0],
        "onednn": getattr(matmul, "fp32_precision", None),
        "blas": blas_threads(),
    }


@pytest.fixture(autouse=True)
def _two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_workers_leave_nothing_changed() -> None:
    before = settings()
    with Workers(2) as workers:
        assert workers.map(lambda _: torch.get_num_threads(), range(4)) == [1] * 4
        with workers.for_columns(1 << 20):
            pass
    assert settings() == before


def test_workers_leave_nothing_changed_after_an_error() -> None:
    def fail(item: int) -> int:
        raise ValueError(f"item {item}")

    before = settings()
    with pytest.raises(ValueError, match="item 0"), Workers(2) as workers:
        workers.map(fail, range(3))
    assert settings() == before


def test_workers_that_cannot_start_leave_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    workers = Workers(1)
    monkeypatch.setattr("lieq_edge.blockwise.workers.fast_float32", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), workers:
        pass
    assert settings() == before


def test_fast_products_leave_nothing_changed_after_an_error() -> None:
    before = settings()
    with pytest.raises(ValueError, match="within"), precision.fast_products():
        raise ValueError("within")
    assert settings() == before
    assert not torch.is_autocast_enabled("cpu")


def test_threads_are_restored_after_an_error() -> None:
    def work() -> None:
        with restored_threads():
            use_threads(1)
            with restored_threads():
                use_threads(3)
            assert torch.get_num_threads() == 3  # until the outermost context ends
            raise ValueError("within")

    before = settings()
    with pytest.raises(ValueError, match="within"):
        work()
    assert settings() == before
    use_threads(None)
    assert settings() == before


def test_imports_change_nothing() -> None:
    code = """
import torch
from threadpoolctl import ThreadpoolController
import scipy.linalg.lapack
def settings():
    found = ThreadpoolController().select(user_api="blas").info()
    blas = {library["filepath"]: library["num_threads"] for library in found}
    precision = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)
    return torch.get_num_threads(), torch.get_num_interop_threads(), precision, torch.get_default_dtype(), blas
import transformers.cache_utils, numba, llama_cpp
before = settings()
import lieq_edge.blockwise.sampling, lieq_edge.blockwise.residual, lieq_edge.blockwise.partial_runs
import lieq_edge.gptq.feedback, lieq_edge.gptq.collect, lieq_edge.texts.windows
assert settings() == before, (settings(), before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
