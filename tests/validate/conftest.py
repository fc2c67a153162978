"""Tiny models as GGUF files, and the scripts of ``tools`` as modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_gguf(family, type="F32", **options)``: the GGUF file of a tiny model, made once."""
    from lieq_edge.source import open_source
    from lieq_edge.write.plain import write_plain

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
def text() -> str:
    """About a thousand tokens for a tiny tokenizer."""
    return tiny.sample_text(4000, seed=3)
