"""A model to quantise, as GGUF has it and as transformers has it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..gguf.container import KeyValue as KeyValue
from ..llama.vocabulary import Vocabulary
from ..store import Cache

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of the model under its GGUF name.

    Attributes:
        name: GGUF name, e.g. ``blk.3.attn_q.weight``.
        shape: numpy order; for a projection ``(output channels, input channels)``.
        stored: type in the source, e.g. ``BF16`` or ``Q4_1``.
        kept: it is written with the bytes that the source has (``read_stored``), whatever the plan's levels.
    """

    name: str
    shape: tuple[int, ...]
    stored: str
    kept: bool = False


class Source(ABC):
    """A model to quantise. Opening one reads headers only; tensors are read one at a time.

    Attributes:
        label: the user's name for the model.
        architecture: GGUF architecture, e.g. ``llama``.
        n_blocks: number of Transformer blocks.
        warnings: sentences for the user; reading the tokenizer (``metadata``, ``tokenize``) may add to them.
        gguf_path: the GGUF file by which llama.cpp loads the model, when the source is one (the first one of parts).
        files: the files of a GGUF source.
        in_transformers: transformers can run the model; if not, it is measured through llama.cpp, and ``config``,
            ``hf_name`` and ``to_hf`` are refused.
    """

    label: str
    architecture: str
    n_blocks: int
    warnings: tuple[str, ...] = ()
    gguf_path: Path | None = None
    files: tuple[Path, ...] = ()
    in_transformers: bool = True

    @property
    @abstractmethod
    def content_hash(self) -> str:
        """SHA-256 (hex) over metadata and weights; the same model bytes give the same hash."""

    @property
    def read_files(self) -> tuple[Path, ...]:
        """The files that the model is read from; while one is at work they must not change."""
        return self.files

    def use_cache(self, cache: Cache) -> None:  # noqa: B027  most sources need none
        """Take what was found of this model before from ``cache``, a cache for results of it."""

    @abstractmethod
    def tensors(self) -> list[TensorSpec]:
        """All tensors in the order in which they are written."""

    @abstractmethod
    def read(self, name: str) -> Array:
        """The tensor with GGUF name ``name`` as float32, laid out as llama.cpp wants it.

        Raises:
            InputError: the weights hold NaN or Inf, or the file ends before they do.
        """

    def read_stored(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor that is ``kept``, uint8 ``(bytes,)``.

        Raises:
            InputError: as ``read``.
        """
        raise NotImplementedError(f"{name} is not kept as it is stored")

    def read_rows(self, name: str, rows: slice) -> npt.NDArray[np.uint16] | None:
        """The bits of some rows of the embedding or the head, ``(rows, columns)``, where that has 16 bits (``stored``).

        None where the source cannot read single rows.

        Raises:
            InputError: the file ends before they do.
        """
        return None

    @abstractmethod
    def metadata(self) -> list[KeyValue]:
        """All key-values of the file to write (hyper-parameters, tokenizer, chat template), except
        ``general.file_type`` and ``general.quantization_version``."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The transformers configuration (``model_type`` included) of the same model."""

    @abstractmethod
    def hf_name(self, name: str) -> str | None:
        """The transformers parameter name of a GGUF tensor, e.g. ``model.layers.3.self_attn.q_proj.weight``;
        None for a tensor that is not a parameter there (``rope_freqs.weight``)."""

    @abstractmethod
    def to_hf(self, name: str, array: Array) -> Array:
        """Undo llama.cpp's layout: the transformers parameter of the GGUF tensor ``name``."""

    def original(self, name: str) -> Array | None:
        """The transformers parameter of a GGUF tensor as the model stores it, before any change of layout; None where
        the source has no such form."""
        return None

    @abstractmethod
    def tokenize(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of ``text`` by llama.cpp's tokenizer.

        Args:
            text: plain text, or rendered conversations.
            add_bos: whether the ids begin with BOS, if the model has one.
            parse_special: special tokens in the text become tokens; else they are read as text.
        """

    @property
    @abstractmethod
    def bos_id(self) -> int | None:
        """The id that starts a text, or None when the model has none."""

    @property
    @abstractmethod
    def adds_bos(self) -> bool:
        """True when llama.cpp puts BOS before every text for this model."""

    @abstractmethod
    def detokenize(self, ids: list[int]) -> str:
        """Text of token ids (special tokens are left out)."""


class TokenizingSource(Source):
    """A source whose tokenizer is a vocabulary that llama.cpp has loaded."""

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The tokenizer, loaded on first use."""

    def tokenize(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        return bos + self.vocabulary.tokenize(text, parse_special=parse_special)

    @property
    def bos_id(self) -> int | None:
        return self.vocabulary.bos_id

    @property
    def adds_bos(self) -> bool:
        return self.vocabulary.adds_bos

    def detokenize(self, ids: list[int]) -> str:
        return self.vocabulary.detokenize(ids)
