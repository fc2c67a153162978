"""Weights pickled by torch, which are read only when the user asks for it by name, and then as tensors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...system.memory import is_memory_error
from ..base import Array
from ..plain_files import is_plain_file
from .safetensors_files import StoredWeights, indexed_files

PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_SUFFIXES = (".bin", ".pth", ".pt")
_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_READ = ("F32", "F16", "BF16")
_OTHERS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scheduler.bin")


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
            InputError: its type is not a floating-point type that is read.
        """
        if self.dtype not in _READ:
            raise InputError(f"{self.path} holds weights of type {self.dtype}; give the unquantised model.")
        values: Array = self.tensor.float().numpy()
        return np.array(values)


def pickle_files(directory: Path) -> list[Path]:
    """The pickled weights in ``directory``, as transformers chooses them; an empty list when there are none.

    Raises:
        InputError: the index is damaged, or names files that are missing or lie elsewhere.
    """
    if is_plain_file(directory / PICKLE_FILE):
        return [directory / PICKLE_FILE]
    if is_plain_file(directory / PICKLE_INDEX):
        return indexed_files(directory / PICKLE_INDEX)
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix in _SUFFIXES and path.name not in _OTHERS and is_plain_file(path)
    )


def read_pickles(paths: list[Path]) -> dict[str, StoredWeights]:
    """All tensors of ``paths`` by name; ``torch.load`` builds nothing but tensors and plain containers.

    Raises:
        InputError: a file is missing, damaged, of torch's old form, or holds anything else.
    """
    import torch

    tensors: dict[str, StoredWeights] = {}
    for path in paths:
        try:
            document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # pickle's, zipfile's and torch's own
            if is_memory_error(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{path} cannot be loaded as a pickle of tensors ({reason}); save the model as safetensors."
            ) from error
        if not isinstance(document, dict):
            raise InputError(f"{path} does not hold tensors by name; save the model as safetensors.")
        for name, tensor in document.items():
            if not isinstance(tensor, torch.Tensor) or not isinstance(name, str):
                continue
            odd = "no values (it is on the meta device)" if tensor.is_meta else "a sparse layout"
            if tensor.is_meta or tensor.layout is not torch.strided:
                raise InputError(f"The tensor {name} of {path} has {odd}; save the model as safetensors.")
            kind = str(tensor.dtype).removeprefix("torch.")
            tensors[name] = PickledWeights(path, _NAMES.get(kind, kind), tuple(tensor.shape), 0, tensor.detach())
    return tensors
