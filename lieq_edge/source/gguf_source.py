"""Models in GGUF files, unquantised or quantised; key-values and tokenizer are carried over as they are."""

from __future__ import annotations

import functools
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from gguf import Keys

from .. import ggml
from ..container import KeyValue
from ..errors import InputError
from ..header import StoredTensor, read_header, type_name
from ..llama import Vocabulary
from .base import Array, TensorSpec, TokenizingSource
from .checks import check_finite, check_parameters, hash_files, read_bytes
from .families import COMPUTED, family_of_architecture

_FLOATS = ("F32", "F16", "BF16")
_NOT_CARRIED = ("general.file_type", "general.quantization_version")


class GgufSource(TokenizingSource):
    """A model in one GGUF file."""

    def __init__(self, path: Path, label: str) -> None:
        """Open ``path``: its header.

        Raises:
            InputError: the file is missing or damaged, or the model is of a kind that is not read.
        """
        self._path = self.gguf_path = path
        self.label = label
        self._header = read_header(path)
        architecture = self._header.get(Keys.General.ARCHITECTURE)
        if not isinstance(architecture, str):
            raise InputError(f"{path} does not say its architecture; convert the model to GGUF again.")
        if (self._header.get(Keys.Split.LLM_KV_SPLIT_COUNT) or 0) > 1:
            raise InputError(f"{path} is one part of several; join them with llama-gguf-split --merge first.")
        experts = self._header.get(Keys.LLM.EXPERT_COUNT.format(arch=architecture)) or 0
        self._family = family_of_architecture(architecture, experts, label)
        self.architecture = architecture
        self._stored = {tensor.name: tensor for tensor in self._header.tensors}
        if not self._header.get("tokenizer.ggml.tokens"):
            raise InputError(f"{path} holds no tokenizer; convert the model to GGUF again.")
        shapes = {name: tensor.shape for name, tensor in self._stored.items()}
        computed = {name: self.read(name) for name in COMPUTED & shapes.keys()}
        self._config = self._family.config_of_keys(self._get, shapes, computed, label)
        self._dims = self._family.dims(self._config, label)
        self.n_blocks = self._dims.blocks
        self._names = self._family.gguf_names(self._dims)
        parameters = self._family.parameters(self._dims)
        needed = {name: self._family.gguf_shape(name, parameters[hf]) for name, hf in self._names.items()}
        check_parameters(needed, shapes, set(self._family.computed_names), label)
        self.warnings = tuple(self._loss())

    def _get(self, key: str) -> Any:
        return self._header.get(key.format(arch=self.architecture))

    def _loss(self) -> list[str]:
        """A warning that names the quantised types, the one of most weights first."""
        weights: Counter[int] = Counter()
        for tensor in self._stored.values():
            if type_name(tensor.type) not in _FLOATS:
                weights[tensor.type] += prod(tensor.shape)
        for kind in weights:
            if not ggml.can_decode(kind):
                raise InputError(
                    f"{self.label} holds weights of type {type_name(kind)}, which cannot be read back; "
                    "give a file of another type, best F16 or BF16."
                )
        if not weights:
            return []
        types = ", ".join(type_name(kind) for kind, _ in weights.most_common())
        return [
            f"The weights of {self.label} come from a quantised file ({types}): what that rounding lost stays lost, "
            "and all comparisons are with these weights."
        ]

    @functools.cached_property
    def content_hash(self) -> str:
        return hash_files([self._path], named=False)

    def tensors(self) -> list[TensorSpec]:
        return [TensorSpec(t.name, t.shape, type_name(t.type)) for t in self._header.tensors]

    def read(self, name: str) -> Array:
        array = _read(self._path, self._stored[name])
        check_finite(array, name, self.label)
        return array

    def metadata(self) -> list[KeyValue]:
        return [kv for kv in self._header.metadata if kv.key not in _NOT_CARRIED]

    def config(self) -> dict[str, Any]:
        return dict(self._config)

    def hf_name(self, name: str) -> str | None:
        return None if name in COMPUTED else self._names[name]

    def to_hf(self, name: str, array: Array) -> Array:
        return self._family.to_hf(name, array, self._dims)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self._path)


def _read(path: Path, tensor: StoredTensor) -> Array:
    raw = read_bytes(path, tensor.offset, tensor.nbytes)
    return ggml.decode(raw, tensor.type, tensor.shape)
