"""Models in Hugging Face directories: config.json, safetensors and tokenizer files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFValueType, GGUFWriter

from ..errors import InputError
from ..gguf.container import KeyValue
from ..gguf.names import EMBEDDING, HEAD
from ..llama.vocabulary import Vocabulary
from ..store import NO_CACHE, Cache
from .base import Array, TensorSpec, TokenizingSource
from .checks import check_blocks, check_finite, check_parameters, hash_files, sensible
from .families import family_of_config
from .generation import GENERATION_FILE
from .kinds import ADAPTER_CONFIG, check_directory, check_stored, no_head
from .model_card import read_general
from .plain_files import is_plain_file, read_json
from .text_part import has_text_part, text_config, text_names
from .tokenizers.apart import settle_apart
from .tokenizers.tokenizer import check_files, writer_values
from .tokenizers.trial import Trial, of_entry
from .weights.lora import Adapter, open_adapter
from .weights.names import fitted, unwrapped
from .weights.pickles import pickle_files, read_pickles
from .weights.safetensors_files import StoredWeights, find_files, has_files, read_index

CONFIG_FILE = "config.json"
_HEAD_NAME = "lm_head.weight"

HASHED_FILES = (
    CONFIG_FILE,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    GENERATION_FILE,
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""The files beside the weights that belong to a model; what the model card says decides no measurement."""

TEMPLATE_FOLDER = "additional_chat_templates"
"""Folder of further chat templates."""

_FOREIGN = frozenset(
    (
        "_attn_implementation",
        "_name_or_path",
        "attn_implementation",
        "auto_map",
        "chunk_size_feed_forward",
        "finetuning_task",
        "id2label",
        "label2id",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "pruned_heads",
        "quantization",
        "return_dict",
        "task_specific_params",
        "torchscript",
        "use_return_dict",
    )
)
"""Settings of transformers that are not about the model, e.g. a number of labels for which it makes a table."""


@dataclass(frozen=True)
class Opening:
    """Options that a model is opened with.

    Attributes:
        lora: directory of a PEFT adapter to merge into the weights.
        allow_pickle: pickled weights are read when there are no safetensors.
    """

    lora: Path | None = None
    allow_pickle: bool = False


def read_config(path: Path) -> dict[str, Any]:
    """A config.json without settings that are not about the model.

    Raises:
        InputError: it is missing, or does not hold a JSON object.
    """
    try:
        config = read_json(path)
    except FileNotFoundError as error:
        raise InputError(_no_config(path.parent)) from error
    return {key: value for key, value in config.items() if key not in _FOREIGN or key == "quantization"}


def _no_config(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir())
    if not names:
        return f"{directory} is empty; give a directory with config.json, safetensors and tokenizer files."
    for name in names:
        if name.endswith(".gguf"):
            return f"{directory} holds no {CONFIG_FILE}; give the path of {name} in it, if that is the model."
    return f"{directory} holds no {CONFIG_FILE}; give the directory of a Hugging Face model."


class HuggingFaceSource(TokenizingSource):
    """A model in a Hugging Face directory."""

    def __init__(
        self,
        directory: Path,
        label: str,
        name: str | None = None,
        opening: Opening | None = None,
        *,
        repository: str | None = None,
    ) -> None:
        """Open ``directory``: its configuration and the headers of its weights.

        Args:
            directory: directory of the model.
            label: the user's name for it.
            name: the model's name in the written file, by default the directory's name.
            opening: options, e.g. an adapter.
            repository: id of the repository on the hub that it was fetched from.

        Raises:
            InputError: a file is missing or damaged, or the model is of a kind that is not read.
        """
        self._directory = directory
        self.label = label
        self._name = name or directory.resolve().name
        self._cache: Cache = NO_CACHE
        with sensible(f"The configuration and the weights of {label}"):
            self._open(opening or Opening(), repository)

    def _open(self, opening: Opening, repository: str | None) -> None:
        directory, label = self._directory, self.label
        check_directory(directory, label)
        whole = read_config(directory / CONFIG_FILE)
        self._config = text_config(whole)
        self._family = family_of_config(self._config, label)
        self._config = self._family.complete(self._config)
        self._family.check(self._config, label)
        self._dims = self._family.dims(self._config, label)
        self.architecture = self._family.architecture
        self.n_blocks = self._dims.blocks
        stored = unwrapped(self._read_index(opening.allow_pickle))
        check_blocks(self.n_blocks, len(stored), label)
        notes: list[str] = []
        if has_text_part(whole):
            stored, others = text_names(stored, label)
            notes.append(f"{label} is more than a language model: its text part is taken, {others} tensors are left.")
        needed = self._family.parameters(self._dims)
        self._names = self._family.gguf_names(self._dims)
        self._check_stored(stored, needed)
        self._computed = self._family.computed(self._config, self._dims)
        check_files(directory)
        self._adapter = self._open_adapter(opening.lora, needed)
        if self._adapter is not None:
            notes += self._adapter.warnings(self._name)
        elif is_plain_file(directory / ADAPTER_CONFIG):
            notes.append(f"{label} holds an adapter beside the model, which is left out; pass --lora to merge it.")
        self._general, remarks = read_general(directory, self._name, self._count_parameters())
        if repository is not None and self._general.source_repo_url is None:
            self._general.source_repo_url = f"https://huggingface.co/{repository}"
        self.warnings = (*notes, *remarks, *self._family.warnings(self._config, label))

    def _count_parameters(self) -> tuple[int, int, int, int]:
        """Weights of all tensors, of those that are no experts', and of one expert, and the number of experts."""
        writer = GGUFWriter(None, self.architecture)
        for spec in self.tensors():
            writer.add_tensor_info(spec.name, spec.shape, np.dtype(np.float32), 0)
        counts: tuple[int, int, int, int] = writer.get_total_parameter_count()
        return counts

    def _check_stored(self, stored: Mapping[str, StoredWeights], needed: dict[str, tuple[int, ...]]) -> None:
        """Take the tensors that the configuration asks for, and refuse what does not fit it."""
        label, embedding = self.label, self._names[EMBEDDING]
        self._stored = fitted(self._family.stored(stored), needed, embedding, tied=self._dims.tied)
        check_stored({name: weights.dtype for name, weights in self._stored.items()}, set(needed), label)
        classes = self._config.get("architectures") or []
        if _HEAD_NAME in needed and _HEAD_NAME not in self._stored and self._family.body_name in classes:
            raise no_head(self._family.body_name, label)
        if _HEAD_NAME in needed and _HEAD_NAME not in self._stored and embedding in self._stored:
            raise InputError(
                f"{label} has no output head ({_HEAD_NAME}), which its configuration asks for (tie_word_embeddings is "
                "false); fetch the whole model, or set tie_word_embeddings to true if the head is the embedding."
            )
        # Tables that older checkpoints carry along, and a head that tied models save though it is their embedding.
        suffixes = ("rotary_emb.inv_freq", ".masked_bias", *self._family.ignored_suffixes)
        ignored = {name for name in self._stored if name.endswith(suffixes)} | {_HEAD_NAME}
        check_parameters(needed, {name: weights.shape for name, weights in self._stored.items()}, ignored, label)
        head = self._stored.get(_HEAD_NAME) if self._dims.tied else None
        if head is not None and not head.equals(self._stored[embedding]):
            # transformers 4 ignores such a head, transformers 5 uses it.
            raise InputError(
                f"The configuration of {label} says that its head is the token embedding, and {_HEAD_NAME} holds "
                "other values; set tie_word_embeddings to false if the head counts, or remove it."
            )

    def _read_index(self, allow_pickle: bool) -> dict[str, StoredWeights]:
        if allow_pickle and not has_files(self._directory):
            self._paths = pickle_files(self._directory)
            if self._paths:
                return read_pickles(self._paths)
        self._paths = find_files(self._directory)
        return read_index(self._paths)

    def _open_adapter(self, directory: Path | None, needed: dict[str, tuple[int, ...]]) -> Adapter | None:
        if directory is None:
            return None
        outer = frozenset({self._names[EMBEDDING], self._names.get(HEAD, _HEAD_NAME)})
        return open_adapter(directory, needed, outer=outer, tied=self._dims.tied, label=self.label)

    @property
    def read_files(self) -> tuple[Path, ...]:
        adapter = () if self._adapter is None else self._adapter.files
        return (*self._model_files(), *adapter)

    def _model_files(self) -> list[Path]:
        present = [self._directory / name for name in HASHED_FILES if is_plain_file(self._directory / name)]
        templates = sorted((self._directory / TEMPLATE_FOLDER).glob("*.jinja"))
        return [*present, *templates, *self._paths]

    @functools.cached_property
    def content_hash(self) -> str:
        model = hash_files(self._model_files())
        if self._adapter is None:
            return model
        return hashlib.sha256(f"{model} + {self._adapter.content_hash()}".encode()).hexdigest()

    def tensors(self) -> list[TensorSpec]:
        specs = []
        for name, hf_name in self._names.items():
            weights = self._stored[hf_name]
            # The sum of two matrices has more digits than either.
            stored = "F32" if self._is_merged(hf_name) else weights.dtype
            specs.append(TensorSpec(name, self._family.gguf_shape(name, weights.shape), stored))
        return specs + [TensorSpec(name, array.shape, "F32") for name, array in self._computed.items()]

    def read(self, name: str) -> Array:
        if name in self._computed:
            return self._computed[name].copy()
        return self._family.to_gguf(name, self._parameter(self._names[name]), self._dims)

    def read_rows(self, name: str, rows: slice) -> npt.NDArray[np.uint16] | None:
        if name not in (EMBEDDING, HEAD) or name not in self._names:
            return None
        hf_name = self._names[name]
        weights = self._stored[hf_name]
        if self._is_merged(hf_name) or type(weights) is not StoredWeights or weights.dtype not in ("BF16", "F16"):
            return None
        return weights.rows(rows)

    def original(self, name: str) -> Array | None:
        return None if name in self._computed else self._parameter(self._names[name])

    def _is_merged(self, hf_name: str) -> bool:
        return self._adapter is not None and hf_name in self._adapter.changed

    def _parameter(self, hf_name: str) -> Array:
        array = self._stored[hf_name].read()
        check_finite(array, hf_name, self.label)
        return array if self._adapter is None else self._adapter.merge(hf_name, array)

    def metadata(self) -> list[KeyValue]:
        writer = GGUFWriter(None, self.architecture)
        writer.add_type("model")
        replace(self._general, name=self._trial.name).set_gguf_meta_model(writer)
        with sensible(f"Settings of {self.label}"):
            self._family.write(self._config, self._dims, writer)
            settings = writer_values(writer)
        head = KeyValue("general.architecture", self.architecture, int(GGUFValueType.STRING))
        return [head, *settings, *self._trial.key_values]

    def config(self) -> dict[str, Any]:
        return dict(self._config)

    def hf_name(self, name: str) -> str | None:
        return None if name in self._computed else self._names[name]

    def to_hf(self, name: str, array: Array) -> Array:
        return self._family.to_hf(name, array, self._dims)

    @functools.cached_property
    def _trial(self) -> Trial:
        parts = {"label": self.label, "architecture": self.architecture, "name": self._name}
        entry = self._cache.get("tokenizer", parts)
        if entry is None:
            entry = settle_apart(self._directory, self._dims.vocab, self.architecture, self.label, name=self._name)
            self._cache.put("tokenizer", parts, entry)
        trial = of_entry(entry, self.architecture)
        self.warnings += trial.warnings
        return trial

    def use_cache(self, cache: Cache) -> None:
        self._cache = cache

    @property
    def vocabulary(self) -> Vocabulary:
        return self._trial.vocabulary
