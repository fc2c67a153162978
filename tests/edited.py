"""Tiny models whose JSON files a test changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from settled import values
from tiny import cached_model

from lieq_edge.sources import open_source
from lieq_edge.sources.huggingface import HuggingFaceSource

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)


class Model:
    """A copy of a tiny model whose JSON files a test changes."""

    def __init__(self, folder: Path, family: str = "llama", **options: Any) -> None:
        self.path = Path(shutil.copytree(cached_model(family, **options), folder / "model"))

    def edit(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.path / name
        document = json.loads(path.read_text()) if path.exists() else {}
        change(document)
        path.write_text(json.dumps(document))

    def open(self) -> HuggingFaceSource:
        source = open_source(str(self.path))
        assert isinstance(source, HuggingFaceSource)
        return source

    def keys(self) -> dict[str, Any]:
        return values(self.open())


def widen(directory: Path) -> None:
    """Sixteen more rows for the embedding."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = np.concatenate([table, table[:16]])
    save_file(tensors, directory / "model.safetensors")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vocab_size": len(table) + 16}))
