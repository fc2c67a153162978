"""Projections of a block as rows of GGUF tensors, and their heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf import Keys

from ...errors import InputError
from ...gguf.names import TensorName
from ...sources.base import Source

ATTENTION = ("attn_q", "attn_k", "attn_v")
"""GGUF roles of the projections that are split into heads."""

FUSED = "attn_qkv"
"""GGUF role of a projection that is all three."""


@dataclass(frozen=True)
class Part:
    """A projection: rows of a tensor.

    Attributes:
        tensor: GGUF name.
        block: block of the tensor.
        role: GGUF name without block and suffix; the parts of a fused ``attn_qkv`` are named like separate ones.
        rows: rows of the tensor.
        head: channels of one head; all rows if there are no heads.
        place: place of the role among those of the block, by name; it numbers the random weights.
    """

    tensor: str
    block: int
    role: str
    rows: slice
    head: int
    place: int = 0


def chosen_projections(source: Source, projections: str) -> dict[int, list[Part]]:
    """The projections whose geometry counts, by block: ``qkv``, or ``all`` matrices but those of experts.

    Raises:
        InputError: a block has no such projection.
    """
    keys = {kv.key: kv.value for kv in source.metadata()}
    by_block: dict[int, list[Part]] = {index: [] for index in range(source.n_blocks)}
    for spec in source.tensors():
        name = TensorName.parse(spec.name)
        if name.block is None or not name.is_weight or spec.kept or len(spec.shape) != 2:
            continue
        heads = _Heads(keys, source.architecture, name.block)
        by_block[name.block] += _parts(spec.name, name.block, name.role, spec.shape[0], heads)
    for index, parts in by_block.items():
        wanted = [part for part in parts if projections == "all" or part.role in ATTENTION]
        if not wanted:
            raise InputError(
                f"Block {index} of {source.label} ({source.architecture}) has no query, key and value projections; "
                "pass --projections all, or --metric first or last."
            )
        order = sorted(part.role for part in wanted)
        by_block[index] = [
            Part(part.tensor, part.block, part.role, part.rows, part.head, order.index(part.role)) for part in wanted
        ]
    return by_block


class _Heads:
    """Numbers and sizes of the heads of a block, from the key-values; None where these lack them."""

    def __init__(self, keys: Mapping[str, Any], architecture: str, block: int) -> None:
        def get(key: str) -> int | None:
            value = keys.get(key.format(arch=architecture))
            if isinstance(value, list):
                value = value[block] if block < len(value) else None
            return value if isinstance(value, int) and value > 0 else None

        width = get(Keys.LLM.EMBEDDING_LENGTH)
        self.queries = get(Keys.Attention.HEAD_COUNT)
        self.keys = get(Keys.Attention.HEAD_COUNT_KV) or self.queries
        usual = width // self.queries if width and self.queries else None
        self.key_size = get(Keys.Attention.KEY_LENGTH) or usual
        self.value_size = get(Keys.Attention.VALUE_LENGTH) or usual


def _parts(tensor: str, block: int, role: str, rows: int, heads: _Heads) -> list[Part]:
    key, value = heads.key_size, heads.value_size
    if role == FUSED and heads.queries and heads.keys and key and value:
        sizes = (heads.queries * key, heads.keys * key, heads.keys * value)
        if sum(sizes) == rows:
            starts = (0, sizes[0], sizes[0] + sizes[1])
            return [
                Part(tensor, block, name, slice(start, start + size), head)
                for name, start, size, head in zip(ATTENTION, starts, sizes, (key, key, value), strict=True)
            ]
    head = value if role == "attn_v" else key
    if role == FUSED:
        # Another layout than queries, keys, values: one projection without heads.
        role, head = "attn_q", None
    if role not in ATTENTION or not head or rows % head:
        head = rows
    return [Part(tensor, block, role, slice(0, rows), head)]
