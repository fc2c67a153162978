"""Describe a GGUF file from its header alone: types, sizes, bits, tokenizer, and how lieq-edge made it.

Any metadata can be described. A value of the wrong kind counts as missing, and text that is not UTF-8 or not printable
is replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..system.terminal import clean
from .header import Header, StoredTensor, type_name
from .names import TensorName
from .splits import read_model
from .types import is_matrix, portability_note

# ``lieq.bpw`` is stored in float32.
_BPW_TOLERANCE = 1e-5


@dataclass(frozen=True)
class TypeSummary:
    """All tensors of one storage type.

    Attributes:
        type: ggml's name.
        tensors: how many.
        parameters: weights in them.
        nbytes: their bytes, without padding.
        bpw: bits a weight.
    """

    type: str
    tensors: int
    parameters: int
    nbytes: int
    bpw: float


@dataclass(frozen=True)
class BlockSummary:
    """The matrices of one block.

    Attributes:
        index: the block.
        types: type of each projection, by its role.
        nbytes: bytes of all, without padding.
        bpw: bits a weight.
    """

    index: int
    types: dict[str, str]
    nbytes: int
    bpw: float


@dataclass(frozen=True)
class TokenizerSummary:
    """The tokenizer: llama.cpp's model and pre-tokenizer names, its size, and its rule for BOS.

    ``add_bos`` is None where the file leaves the rule to llama.cpp.
    """

    model: str
    pre: str | None
    tokens: int
    bos_id: int | None
    eos_id: int | None
    add_bos: bool | None
    chat_template: bool


@dataclass(frozen=True)
class FileReport:
    """What a GGUF file holds.

    Attributes:
        parameters: weights of all tensors.
        file_bpw: bits a weight over all tensors.
        block_bpw: bits a weight of the block weights (matrices of the blocks), None without blocks.
        others: type of each matrix outside the blocks.
        lieq: the ``lieq.*`` key-values without that prefix; empty for other files.
        warnings: sentences about what does not fit together.
        notes: further sentences about the file.
    """

    file_bytes: int
    architecture: str
    name: str | None
    parameters: int
    file_bpw: float
    block_bpw: float | None
    types: tuple[TypeSummary, ...]
    blocks: tuple[BlockSummary, ...]
    others: dict[str, str]
    tokenizer: TokenizerSummary | None
    lieq: dict[str, Any]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def inspect_file(path: Path) -> FileReport:
    """Describe ``path``, or the model it is a part of, without reading its weights.

    Raises:
        InputError: the file is missing, damaged or not a GGUF file.
    """
    model = read_model(path)
    header = model.header
    blocks, others = _by_block(header.tensors)
    in_blocks = [tensor for matrices in blocks.values() for tensor in matrices]
    names = Counter(type_name(tensor.type) for tensor in header.tensors)
    block_bpw = _bpw(in_blocks) if in_blocks else None
    lieq = {
        clean(kv.key.removeprefix("lieq.")): _clean_value(kv.value)
        for kv in header.metadata
        if kv.key.startswith("lieq.")
    }
    return FileReport(
        file_bytes=sum(part.stat().st_size for part in model.paths),
        architecture=_text(header, "general.architecture") or "unknown",
        name=_text(header, "general.name"),
        parameters=_weights(header.tensors),
        file_bpw=_bpw(header.tensors),
        block_bpw=block_bpw,
        types=tuple(_summarise(name, header.tensors) for name, _ in names.most_common()),
        blocks=tuple(
            BlockSummary(index, _types(tensors), sum(t.nbytes for t in tensors), _bpw(tensors))
            for index, tensors in sorted(blocks.items())
        ),
        others={clean(tensor.name): type_name(tensor.type) for tensor in others},
        tokenizer=_tokenizer(header),
        lieq=lieq,
        warnings=_warnings(lieq, block_bpw),
        notes=tuple(filter(None, [portability_note(names)])),
    )


def _warnings(lieq: dict[str, Any], block_bpw: float | None) -> tuple[str, ...]:
    stated = lieq.get("bpw")
    if not isinstance(stated, float) or (
        block_bpw is not None and abs(stated - block_bpw) <= _BPW_TOLERANCE * max(block_bpw, 1.0)
    ):
        return ()
    counted = "no block weights" if block_bpw is None else f"{block_bpw:.3f} bits a weight"
    return (
        f"lieq.bpw is {stated:.3f} and the file has {counted}: it was changed after lieq-edge wrote it, "
        "so the lieq.* values describe another file.",
    )


def _by_block(
    tensors: Iterable[StoredTensor],
) -> tuple[dict[int, list[StoredTensor]], list[StoredTensor]]:
    """Matrices by block, and the matrices outside the blocks."""
    blocks: dict[int, list[StoredTensor]] = {}
    others = []
    for tensor in tensors:
        if len(tensor.shape) < 2:
            continue
        block = TensorName.parse(tensor.name).block
        if block is None:
            others.append(tensor)
        elif is_matrix(tensor.name, tensor.shape):
            blocks.setdefault(block, []).append(tensor)
    return blocks, others


def _types(tensors: Iterable[StoredTensor]) -> dict[str, str]:
    return {clean(TensorName.parse(t.name).role): type_name(t.type) for t in tensors}


def _weights(tensors: Iterable[StoredTensor]) -> int:
    return sum(prod(tensor.shape) for tensor in tensors)


def _bpw(tensors: Iterable[StoredTensor]) -> float:
    tensors = tuple(tensors)
    return 8 * sum(tensor.nbytes for tensor in tensors) / max(_weights(tensors), 1)


def _summarise(name: str, tensors: Iterable[StoredTensor]) -> TypeSummary:
    chosen = [tensor for tensor in tensors if type_name(tensor.type) == name]
    return TypeSummary(name, len(chosen), _weights(chosen), sum(t.nbytes for t in chosen), _bpw(chosen))


def _tokenizer(header: Header) -> TokenizerSummary | None:
    model = _text(header, "tokenizer.ggml.model")
    if model is None:
        return None
    tokens = header.get("tokenizer.ggml.tokens")
    add_bos = header.get("tokenizer.ggml.add_bos_token")
    return TokenizerSummary(
        model=model,
        pre=_text(header, "tokenizer.ggml.pre"),
        tokens=len(tokens) if isinstance(tokens, list) else 0,
        bos_id=_integer(header, "tokenizer.ggml.bos_token_id"),
        eos_id=_integer(header, "tokenizer.ggml.eos_token_id"),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=_text(header, "tokenizer.chat_template") is not None,
    )


def _text(header: Header, key: str) -> str | None:
    value = header.get(key)
    return clean(value) if isinstance(value, str) else None


def _integer(header: Header, key: str) -> int | None:
    value = header.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _clean_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_clean_value(item) for item in value]
    return clean(value) if isinstance(value, str) else value
