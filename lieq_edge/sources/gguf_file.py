"""Models in GGUF files, unquantised or quantised; key-values and tokenizer are carried over as they are.

An architecture with a ``Family`` is read as transformers has it, too. Of any other one that llama.cpp runs, and of a
variant that the family does not describe, the tensors are distinguished by their names, and the model is measured
through llama.cpp.
"""

from __future__ import annotations

import functools
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGUFType, Keys

from ..errors import InputError
from ..gguf.container import KeyValue
from ..gguf.header import StoredTensor, type_name
from ..gguf.splits import read_model
from ..gguf.vocabulary_check import check_vocabulary
from ..llama import library as ggml
from ..llama.engine import Engine
from ..llama.vocabulary import Vocabulary
from .base import Array, TensorSpec, TokenizingSource
from .checks import check_finite, check_parameters, hash_files, read_bytes, sensible
from .families import COMPUTED, Dims, Family, family_of_architecture
from .gguf_keys import check_keys
from .weights.gguf_tensors import count_blocks, is_encoded

_FLOATS = ("F32", "F16", "BF16")
_NOT_CARRIED = ("general.file_type", "general.quantization_version")
_SHORT = 16  # tokens of a context that is made to see whether llama.cpp runs the model


class GgufSource(TokenizingSource):
    """A model in one GGUF file, or in the parts of ``llama-gguf-split``."""

    def __init__(self, path: Path, label: str) -> None:
        """Open a file: its header, and those of the other parts.

        Args:
            path: the file, or the first of its parts.
            label: the user's name for the model.

        Raises:
            InputError: a file is missing or damaged, or the model is of a kind that is not read.
        """
        model = read_model(path)
        self._header, self._places, self.files = model.header, model.places, model.paths
        self.gguf_path = self._path = model.paths[0]
        self.label = label
        with sensible(f"The key-values of {label}"):
            self._open(path, label)

    def _open(self, path: Path, label: str) -> None:
        architecture = self._header.get(Keys.General.ARCHITECTURE)
        if not isinstance(architecture, str):
            raise InputError(f"{path} does not say its architecture; convert the model to GGUF again.")
        kind = self._header.get(Keys.General.TYPE, GGUFType.MODEL)
        if kind != GGUFType.MODEL:
            raise InputError(f"{path} is not a language model but a file of the kind {kind!r}; give the model itself.")
        self.architecture = architecture
        names = [kv.key for kv in self._header.metadata] + [tensor.name for tensor in self._header.tensors]
        if any("\udc80" <= c <= "\udcff" for name in names for c in name):
            raise InputError(f"{path} has a key or a tensor whose name is not UTF-8; fetch the file again.")
        if self._get(Keys.Attention.CAUSAL) is False:
            raise InputError(
                f"{label} ({architecture}) is an encoder: it predicts no next token, by which everything here "
                "is measured; choose a decoder."
            )
        self._stored = {tensor.name: tensor for tensor in self._header.tensors}
        shapes = {name: tensor.shape for name, tensor in self._stored.items()}
        blocks = count_blocks(shapes, self._get, label)
        if not self._header.get("tokenizer.ggml.tokens"):
            raise InputError(f"{path} holds no tokenizer; convert the model to GGUF again.")
        self._family: tuple[Family, Dims] | None = None
        family = family_of_architecture(architecture, self._get(Keys.LLM.EXPERT_COUNT) or 0)
        self.n_blocks = blocks
        notes: list[str] = []
        if family is None:
            self.in_transformers = False
            # An architecture that llama.cpp does not know is refused now, not after long work.
            _ = self.vocabulary
        else:
            try:
                self._read_family(family, shapes)
            except InputError as error:
                notes.append(self._leave_to_llama(family, error))
        self.warnings = (*notes, *self._loss())

    def _read_family(self, family: Family, shapes: dict[str, tuple[int, ...]]) -> None:
        """Describe the model as transformers has it.

        Raises:
            InputError: it has a key or a tensor that the family's description lacks, or the other way round.
        """
        computed = {name: self.read(name) for name in COMPUTED & shapes.keys()}
        asked = set()

        def get(key: str) -> Any:
            asked.add(key)
            return self._get(key)

        config = family.config_of_keys(get, shapes, computed, self.label)
        dims = family.dims(config, self.label)
        names, parameters = family.gguf_names(dims), family.parameters(dims)
        needed = {name: family.gguf_shape(name, parameters[hf]) for name, hf in names.items()}
        check_parameters(needed, shapes, set(family.computed_names), self.label)
        check_keys(self._header.metadata, asked, family, config, dims, self.label)
        self._config, self._names, self._family = config, names, (family, dims)

    def _leave_to_llama(self, family: Family, error: InputError) -> str:
        """Measure the model through llama.cpp, for which the file is one that it loads; a note that gives the reason.

        Raises:
            InputError: it does not: ``error``, which names what the file lacks.
        """
        try:
            Engine(self._path, context=_SHORT, threads=1, label=self.label).close()
        except InputError:
            raise error from None
        self.in_transformers = False
        reason = str(error).rpartition(";")[0]
        return (
            f"{reason}. It is not the {family.title} that transformers runs, so it is run through llama.cpp, which "
            "gives no gradients for --metric loss and for a --rounding with feedback."
        )

    def _get(self, key: str) -> Any:
        return self._header.get(key.format(arch=self.architecture))

    def _loss(self) -> list[str]:
        """A warning that names the quantised types, the one of most weights first."""
        weights: Counter[int] = Counter()
        for tensor in self._stored.values():
            if type_name(tensor.type) not in _FLOATS and is_encoded(tensor.name, tensor.shape):
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
        return hash_files(self.files, named=False)

    def tensors(self) -> list[TensorSpec]:
        return [
            TensorSpec(t.name, t.shape, type_name(t.type), kept=not is_encoded(t.name, t.shape))
            for t in self._header.tensors
        ]

    def read(self, name: str) -> Array:
        tensor = self._stored[name]
        array = ggml.decode(self._raw(tensor), tensor.type, tensor.shape)
        check_finite(array, name, self.label)
        return array

    def read_stored(self, name: str) -> ggml.Packed:
        tensor = self._stored[name]
        raw = self._raw(tensor)
        if ggml.can_decode(tensor.type):
            check_finite(ggml.decode(raw, tensor.type, tensor.shape), name, self.label)
        return raw

    def _raw(self, tensor: StoredTensor) -> ggml.Packed:
        return read_bytes(self.files[self._places[tensor.name]], tensor.offset, tensor.nbytes)

    def metadata(self) -> list[KeyValue]:
        return [kv for kv in self._header.metadata if kv.key not in _NOT_CARRIED]

    def config(self) -> dict[str, Any]:
        self._need_family()
        return dict(self._config)

    def hf_name(self, name: str) -> str | None:
        self._need_family()
        return None if name in COMPUTED else self._names[name]

    def to_hf(self, name: str, array: Array) -> Array:
        family, dims = self._need_family()
        return family.to_hf(name, array, dims)

    def _need_family(self) -> tuple[Family, Dims]:
        if self._family is None:
            raise InputError(
                f"{self.label} is of the architecture {self.architecture}, which is run through llama.cpp only; choose "
                "another --metric than saliency, composite and loss and another --rounding than feedback, which need "
                "PyTorch."
            )
        return self._family

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        check_vocabulary(self._header.get, self.label)
        return Vocabulary(self._path)
