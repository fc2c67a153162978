"""The files that are run on ARM64: random tiny models with all types that are written, and the demo."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import lieq_edge
from lieq_edge.gguf.container import write_container
from lieq_edge.gguf.types import CODEBOOK_TYPES, K_CANDIDATES, NARROW_CANDIDATES, TYPES, is_matrix
from lieq_edge.llama.encoders import encode
from lieq_edge.sources.plain import plain_layout

_TINY: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "k-quants": ({"hidden": 256, "intermediate": 512, "blocks": 2}, K_CANDIDATES),
    "i-quants": ({"hidden": 256, "intermediate": 512, "blocks": 2}, CODEBOOK_TYPES),
    "narrow rows": ({"hidden": 320, "intermediate": 576, "heads": (10, 5), "blocks": 2}, (*NARROW_CANDIDATES, "Q4_0")),
}
"""Shapes of tiny models and the types of their matrices, which take turns."""


def tiny_files(folder: Path) -> list[Path]:
    """Tiny models in ``folder``; ``tests`` has to be among the paths of Python's modules."""
    make_model = import_module("tiny").make_model
    paths = []
    for name, (shape, types) in _TINY.items():
        path = folder / f"tiny, {name}.gguf"
        with tempfile.TemporaryDirectory(prefix="tiny-") as model:
            write_mixed(path, str(make_model(Path(model), "llama", **shape)), types)
        paths.append(path)
    return paths


def write_mixed(path: Path, model: str, types: Sequence[str]) -> None:
    """Write a model whose matrices have the types in turn, rounded to nearest."""
    source = lieq_edge.open_source(model)
    metadata, entries = plain_layout(source, "F16")
    matrices = [name for name, shape, _ in entries if is_matrix(name, shape)]
    chosen = {name: types[index % len(types)] for index, name in enumerate(matrices)}
    tensors = [(name, shape, TYPES[chosen.get(name, kind.name)]) for name, shape, kind in entries]
    # Some types are not written without importance; all columns count alike.
    data = (
        encode(source.read(name).reshape(-1, shape[-1]), kind.name, np.ones(shape[-1], np.float32))
        for name, shape, kind in tensors
    )
    write_container(path, source.architecture, metadata, tensors, data)


def demo_file(folder: Path) -> Path:
    """The demo as a quick export of 90 MB, whose rows of 576 no K-quant fits but those of 1,536 do."""
    path = folder / "demo.gguf"
    settings = lieq_edge.Settings(
        budget="90MB", metric="geometry", rounding="imatrix", calibration="docs", validation=False
    )
    lieq_edge.export_model("demo", path, settings)
    return path
