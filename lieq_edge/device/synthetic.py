"""Models with random weights of one type, whose speed tells what a weight of the type costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from gguf import GGUFValueType

from ..gguf.container import Entry, KeyValue, write_container
from ..gguf.names import EMBEDDING, HEAD, block_tensor
from ..gguf.types import TYPES, is_matrix
from ..llama.encoders import encode

_ARCHITECTURE = "llama"
# The least that sentencepiece's kind of vocabulary takes.
_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
_KINDS = [2, 3, 3, *[6] * 256]  # unknown, control, byte
_VOCABULARY = len(_TOKENS)
_CONTEXT = 1024
# Rows that are drawn; more are copies, because their values do not change the amount of work.
_ROWS = 16


@dataclass(frozen=True)
class Shape:
    """Sizes of a model.

    Attributes:
        hidden: width of the residual stream.
        inner: width inside the feed-forward part.
        heads: heads of attention, without sharing.
        blocks: number of blocks.
    """

    hidden: int
    inner: int
    heads: int
    blocks: int

    @property
    def weights(self) -> int:
        """Weights of the matrices of all blocks."""
        return self.blocks * (4 * self.hidden * self.hidden + 3 * self.hidden * self.inner)

    @property
    def rows(self) -> int:
        """Rows of the matrices of all blocks."""
        return self.blocks * (5 * self.hidden + 2 * self.inner)


def write_synthetic(path: Path, type_name: str, shape: Shape) -> None:
    """Write a model whose block matrices all have one type; it has a tokenizer of bytes."""
    tensors = _tensors(TYPES[type_name].name, shape)
    write_container(path, _ARCHITECTURE, _metadata(shape), tensors, _data(tensors))


def _metadata(shape: Shape) -> list[KeyValue]:
    numbers = {
        "context_length": _CONTEXT,
        "embedding_length": shape.hidden,
        "block_count": shape.blocks,
        "feed_forward_length": shape.inner,
        "attention.head_count": shape.heads,
    }
    return [
        KeyValue("general.architecture", _ARCHITECTURE, GGUFValueType.STRING),
        *(KeyValue(f"{_ARCHITECTURE}.{key}", value, GGUFValueType.UINT32) for key, value in numbers.items()),
        KeyValue(f"{_ARCHITECTURE}.attention.layer_norm_rms_epsilon", 1e-5, GGUFValueType.FLOAT32),
        KeyValue("tokenizer.ggml.model", "llama", GGUFValueType.STRING),
        KeyValue("tokenizer.ggml.tokens", _TOKENS, GGUFValueType.ARRAY, GGUFValueType.STRING),
        KeyValue("tokenizer.ggml.scores", [0.0] * _VOCABULARY, GGUFValueType.ARRAY, GGUFValueType.FLOAT32),
        KeyValue("tokenizer.ggml.token_type", _KINDS, GGUFValueType.ARRAY, GGUFValueType.INT32),
    ]


def _tensors(kind: str, shape: Shape) -> list[Entry]:
    hidden, inner = shape.hidden, shape.inner
    block = {
        "attn_norm": (hidden,),
        "attn_q": (hidden, hidden),
        "attn_k": (hidden, hidden),
        "attn_v": (hidden, hidden),
        "attn_output": (hidden, hidden),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    outer = {EMBEDDING: (_VOCABULARY, hidden), "output_norm.weight": (hidden,), HEAD: (_VOCABULARY, hidden)}
    inside = {block_tensor(i, role): size for i in range(shape.blocks) for role, size in block.items()}
    return [
        *((name, size, TYPES["F32"]) for name, size in outer.items()),
        *((name, size, TYPES[kind if is_matrix(name, size) else "F32"]) for name, size in inside.items()),
    ]


def _data(tensors: list[Entry]) -> Iterator[np.ndarray]:
    rows: dict[tuple[str, int], np.ndarray] = {}
    generator = np.random.default_rng(0)
    for _, size, kind in tensors:
        columns = size[-1]
        if (kind.name, columns) not in rows:
            drawn = (generator.standard_normal((_ROWS, columns)) / np.sqrt(columns)).astype(np.float32)
            rows[kind.name, columns] = encode(drawn, kind.name, np.ones(columns, np.float32), threads=1)
        drawn_rows = rows[kind.name, columns]
        count = prod(size[:-1])
        yield np.tile(drawn_rows, (-(-count // _ROWS), 1))[:count]
