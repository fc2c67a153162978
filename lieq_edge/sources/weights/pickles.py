"""Weights pickled by torch, which are read only when the user asks for it by name, and then as tensors only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..base import Array
from .safetensors_files import StoredWeights

PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_SUFFIXES = (".bin", ".pth", ".pt")
_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, eq=False)
class PickledWeights(StoredWeights):
    """A tensor of a pickle; its bytes stay in the file, which is memory-mapped, until it is read.

    Attributes:
        tensor: torch's.
    """

    tensor: Any = None

    def read(self) -> Array:
        """The tensor as float32.

        Raises:
            InputError: its type is no floating-point type that is read.
        """
        if self.dtype not in _NAMES.values():
            raise InputError(f"{self.path} holds weights of type {self.dtype}; give the unquantised model.")
        values: Array = self.tensor.float().numpy()
        return np.array(values)


def pickle_files(directory: Path) -> list[Path]:
    """The pickled weights in ``directory``, as transformers chooses them; an empty list when there are none."""
    if (directory / PICKLE_FILE).is_file():
        return [directory / PICKLE_FILE]
    index = directory / PICKLE_INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            return [directory / name for name in names]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{index} cannot be read ({error}); fetch it again.") from error
    ignored = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scheduler.bin")
    return sorted(
        path for path in directory.iterdir() if path.suffix in _SUFFIXES and path.is_file() and path.name not in ignored
    )


def read_pickles(paths: list[Path]) -> dict[str, StoredWeights]:
    """All tensors of ``paths`` by name; ``torch.load`` builds nothing but tensors and plain containers.

    Raises:
        InputError: a file is missing, damaged, of torch's old form, or holds anything else.
    """
    import torch

    found: dict[str, StoredWeights] = {}
    for path in paths:
        try:
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # pickle's, zipfile's and torch's own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{path} cannot be loaded as a pickle of tensors ({reason}); save the model as safetensors."
            ) from error
        if not isinstance(document, dict):
            raise InputError(f"{path} does not hold tensors by name; save the model as safetensors.")
        for name, tensor in document.items():
            if isinstance(tensor, torch.Tensor) and isinstance(name, str):
                kind = str(tensor.dtype).removeprefix("torch.")
                found[name] = PickledWeights(path, _NAMES.get(kind, kind), tuple(tensor.shape), 0, tensor)
    return found
