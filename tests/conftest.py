"""Every test has a cache of its own, and PyTorch one thread; each process of tests makes models as GGUF files once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import at_once
import cores  # noqa: F401  before libraries that count the cores as they are loaded
import one_machine
import pytest
import tiny
import torch
from hypothesis import settings

from lieq_edge.blockwise import threads

# Drawn from a fixed seed, so that a run fails for what was changed and not by chance; "search" draws new examples.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("same")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    at_once.register(config)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LIEQ_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models are tiny here, and threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """A test that uses a part of the work alone leaves its number of threads to no other test."""
    yield
    threads.use_threads(None)
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_machine() -> None:
    one_machine.measure_once()


@pytest.fixture(scope="session", autouse=True)
def _one_reader() -> Iterator[None]:
    """The process that reads tokenizers stays for the next test: starting it takes a second."""
    with mock.patch("lieq_edge.sources.tokenizers.apart._end"):
        yield


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_gguf(family, type="F32", **options)``: the GGUF file of a tiny model, made once."""
    from lieq_edge.sources import open_source
    from lieq_edge.sources.plain import write_plain

    folder = tmp_path_factory.mktemp("gguf")
    made: dict[str, Path] = {}

    def make(family: str = "llama", *, type: str = "F32", **options: Any) -> Path:
        key = f"{family} {type} {sorted(options.items())!r}"
        if key not in made:
            made[key] = folder / f"{len(made)}.gguf"
            write_plain(made[key], open_source(str(tiny.cached_model(family, **options))), type)
        return made[key]

    return make


@pytest.fixture(scope="session")
def preset_files(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Callable[..., Path]) -> list[Path]:
    """``q8.gguf`` and ``q4.gguf`` of the tiny Llama, in one folder."""
    from lieq_edge.presets.make import make_preset
    from lieq_edge.sources import open_source

    folder = tmp_path_factory.mktemp("presets")
    paths = [folder / "q8.gguf", folder / "q4.gguf"]
    for path, preset in zip(paths, ("Q8_0", "Q4_0"), strict=True):
        make_preset(open_source(str(tiny_gguf("llama"))), preset, path, None, threads=1)
    return paths


@pytest.fixture(scope="session")
def text() -> str:
    """About a thousand tokens for a tiny tokenizer."""
    return tiny.sample_text(4000, seed=3)
