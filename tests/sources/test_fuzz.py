"""Damaged files of every kind: each is read, or refused in one sentence; never a traceback, a crash or a long wait.

The cases are the same in every run (hypothesis derandomised), so that nothing fails by chance.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from damage import damaged, read_everything
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runner import run
from tiny import cached_model

from lieq_edge.errors import InputError
from lieq_edge.sources import open_source
from lieq_edge.sources.plain import write_plain

SMALL = {"blocks": 1, "vocab": 384, "tied": False}
SECONDS = 10

# Kind of model, file that is damaged, cases. Together more than two thousand.
FILES: dict[str, tuple[str, str, int]] = {
    "config": ("bpe", "config.json", 300),
    "config of sentencepiece": ("sentencepiece", "config.json", 100),
    "safetensors": ("bpe", "model.safetensors", 300),
    "index": ("shards", "model.safetensors.index.json", 120),
    "tokenizer.json": ("bpe", "tokenizer.json", 300),
    "tokenizer.json of sentencepiece": ("sentencepiece-json", "tokenizer.json", 250),
    "tokenizer_config": ("bpe", "tokenizer_config.json", 150),
    "tokenizer.model": ("sentencepiece", "tokenizer.model", 250),
    "gguf": ("bpe", "m.gguf", 250),
    "gguf of sentencepiece": ("sentencepiece", "m.gguf", 150),
}


def base_model(kind: str) -> Path:
    if kind == "shards":
        return cached_model("qwen2", shards=2, **SMALL)
    return cached_model("llama", tokenizer=kind, **SMALL)


class Bench:
    """A folder in which one file of a model after the other is replaced by a damaged one."""

    def __init__(self, folder: Path, kind: str, name: str) -> None:
        self.folder = folder
        self.original = base_model(kind) / name
        self.model = folder
        if name.endswith(".gguf"):
            self.original, self.model = folder / "original.gguf", folder / name
            write_plain(self.original, open_source(str(base_model(kind))), "F16")
            return
        for path in base_model(kind).iterdir():
            if path.name != name:
                os.symlink(path, folder / path.name)

    def put(self, seed: int | None) -> Path:
        """The model with its file damaged by ``seed``, or as it is."""
        path = self.model if self.model.suffix == ".gguf" else self.model / self.original.name
        path.write_bytes(self.original.read_bytes() if seed is None else damaged(self.original, seed))
        return self.model


@pytest.fixture(params=FILES.values(), ids=FILES.keys())
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Bench, int]:
    kind, name, cases = request.param
    return Bench(tmp_path, kind, name), cases


@pytest.fixture(autouse=True)
def _no_long_wait() -> Iterator[None]:
    """A case that takes longer than ten seconds fails instead of stopping everything."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"a case took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Memory:
    """Peak resident size of the process from here on; what earlier tests have taken does not hide it (on Linux)."""

    def __init__(self) -> None:
        self.resets = self._reset()
        self.before = self._status("VmRSS") if self.resets else self._peak()

    def grown(self) -> int:
        """Bytes by which the peak lies above the start."""
        return (self._status("VmHWM") if self.resets else self._peak()) - self.before

    @staticmethod
    def _reset() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    @staticmethod
    def _status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

    @staticmethod
    def _peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_memory_is_measured_whatever_was_used_before() -> None:
    assert np.ones(300_000_000, np.uint8).any()
    memory = Memory()
    if memory.resets:
        assert memory.grown() < 100_000_000
        assert np.ones(200_000_000, np.uint8).any()
        assert 150_000_000 < memory.grown() < 300_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="measures with what Unix has")
def test_damaged_files_are_read_or_refused(bench: tuple[Bench, int], pytestconfig: pytest.Config) -> None:
    place, cases = bench
    whole = float(pytestconfig.getini("faulthandler_timeout"))
    read_everything(place.put(None))
    outcomes = {"read": 0, "refused": 0}
    memory, longest = Memory(), [0.0]

    @settings(max_examples=cases, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 2**32))
    def check(seed: int) -> None:
        model = place.put(seed)
        start = time.monotonic()
        outer, _ = signal.setitimer(signal.ITIMER_REAL, SECONDS)  # the limit of the whole test
        # What hangs in C never comes back to the handler: the process is ended with a traceback.
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
        try:
            read_everything(model)
            message = ""
        except InputError as error:
            message = str(error)
        finally:
            left = max(outer - (time.monotonic() - start), 1) if outer else 0
            signal.setitimer(signal.ITIMER_REAL, left)
            faulthandler.dump_traceback_later(whole, exit=True)  # there is one, which was the whole test's
        longest[0] = max(longest[0], time.monotonic() - start)
        outcomes["refused" if message else "read"] += 1
        assert not message or ("\n" not in message and message.endswith("."))

    check()
    assert sum(outcomes.values()) >= cases
    assert outcomes["refused"] > cases // 20, outcomes
    assert longest[0] < SECONDS
    assert memory.grown() < 1_000_000_000


def test_enough_cases() -> None:
    assert sum(cases for _, _, cases in FILES.values()) >= 2000


def test_a_huge_number_of_blocks_takes_no_memory(tmp_path: Path) -> None:
    import json

    place = Bench(tmp_path, "bpe", "config.json")
    settings = json.loads(place.original.read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 2**62}))
    with pytest.raises(InputError, match="belong together"):
        open_source(str(tmp_path))
    gguf = tmp_path / "m.gguf"
    write_plain(gguf, open_source(str(base_model("bpe"))), "F16")
    key = b"llama.block_count" + (4).to_bytes(4, "little")
    data = gguf.read_bytes()
    assert data.count(key) == 1
    at = data.index(key) + len(key)
    gguf.write_bytes(data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :])
    with pytest.raises(InputError, match="belong together"):
        open_source(str(gguf))


@pytest.mark.parametrize("kind", ["config", "safetensors", "tokenizer.json", "tokenizer.model", "gguf"])
def test_the_command_line_tells_one_sentence(tmp_path: Path, kind: str) -> None:
    family, name, _ = FILES[kind]
    (tmp_path / "m").mkdir()
    place = Bench(tmp_path / "m", family, name)
    refused = 0
    for seed in range(12):
        done = run("plan", place.put(seed), "--budget", "4", "--metric", "first")
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        if done.returncode == 2:
            refused += 1
            assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert refused
