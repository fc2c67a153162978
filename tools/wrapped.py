"""A model source that passes every call on to another; subclasses override some of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from lieq_edge.sources.base import Array, KeyValue, Source, TensorSpec


class Wrapped(Source):
    """A source with another hash, which is over that of ``base`` and the words of ``change``, settings included."""

    def __init__(self, base: Source, change: str) -> None:
        self.base = base
        self.change = change
        self.label = f"{base.label} ({change})"
        self.architecture = base.architecture
        self.n_blocks = base.n_blocks
        self.warnings = base.warnings
        self.gguf_path = None

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(f"{self.base.content_hash} {self.change}".encode()).hexdigest()

    def tensors(self) -> list[TensorSpec]:
        # Changed weights cannot stay in the type that they are stored in.
        return [replace(spec, kept=False) for spec in self.base.tensors()]

    def read(self, name: str) -> Array:
        return self.base.read(name)

    def metadata(self) -> list[KeyValue]:
        return self.base.metadata()

    def config(self) -> dict[str, Any]:
        return self.base.config()

    def hf_name(self, name: str) -> str | None:
        return self.base.hf_name(name)

    def to_hf(self, name: str, array: Array) -> Array:
        return self.base.to_hf(name, array)

    def tokenize(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        return self.base.tokenize(text, add_bos=add_bos, parse_special=parse_special)

    @property
    def bos_id(self) -> int | None:
        return self.base.bos_id

    @property
    def adds_bos(self) -> bool:
        return self.base.adds_bos

    def detokenize(self, ids: list[int]) -> str:
        return self.base.detokenize(ids)
