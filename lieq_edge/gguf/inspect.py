"""Say what is in a GGUF file from its header alone: types, sizes, bits, tokenizer, and how lieq-edge made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .header import Header, StoredTensor, type_name
from .splits import read_model
from .types import is_matrix

if TYPE_CHECKING:
    from rich.console import Console


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
    """The matrices of one block: the type of each projection (GGUF name without ``blk.N.``), and their size."""

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


def inspect_file(path: Path) -> FileReport:
    """Describe ``path``, or the model it is a part of, without reading its weights.

    Raises:
        InputError: the file is missing, damaged or no GGUF file.
    """
    model = read_model(path)
    header = model.header
    blocks, others = _by_block(header.tensors)
    in_blocks = [tensor for matrices in blocks.values() for tensor in matrices]
    names = Counter(type_name(tensor.type) for tensor in header.tensors)
    return FileReport(
        file_bytes=sum(part.stat().st_size for part in model.paths),
        architecture=str(header.get("general.architecture", "unknown")),
        name=header.get("general.name"),
        parameters=_weights(header.tensors),
        file_bpw=_bpw(header.tensors),
        block_bpw=_bpw(in_blocks) if in_blocks else None,
        types=tuple(_summarise(name, header.tensors) for name, _ in names.most_common()),
        blocks=tuple(
            BlockSummary(index, _types(tensors), sum(t.nbytes for t in tensors), _bpw(tensors))
            for index, tensors in sorted(blocks.items())
        ),
        others={tensor.name: type_name(tensor.type) for tensor in others},
        tokenizer=_tokenizer(header),
        lieq={kv.key.removeprefix("lieq."): kv.value for kv in header.metadata if kv.key.startswith("lieq.")},
    )


def render(report: FileReport, console: Console) -> None:
    """Print a report as tables."""
    from rich.table import Table

    title = f"{report.name} ({report.architecture})" if report.name else report.architecture
    console.print(
        f"{title}: {report.file_bytes / 1e6:.1f} MB, {report.parameters / 1e6:.1f} M weights, "
        f"{report.file_bpw:.3f} bits a weight",
        highlight=False,
    )
    if report.block_bpw is not None:
        console.print(f"  block weights: {report.block_bpw:.3f} bits a weight", highlight=False)
    for name, kind in report.others.items():
        console.print(f"  {name}: {kind}", highlight=False)
    if report.tokenizer is not None:
        token = report.tokenizer
        template = "with" if token.chat_template else "without"
        console.print(
            f"  tokenizer: {token.model}{f'/{token.pre}' if token.pre else ''}, {token.tokens} tokens, "
            f"{template} chat template",
            highlight=False,
        )
    table = Table(title="Types")
    for column in ("type", "tensors", "weights", "MB", "bits a weight"):
        table.add_column(column, justify="left" if column == "type" else "right")
    for item in report.types:
        size = f"{item.nbytes / 1e6:.2f}"
        table.add_row(item.type, str(item.tensors), f"{item.parameters:,}", size, f"{item.bpw:.3f}")
    console.print(table)
    table = Table(title="Blocks")
    for column in ("block", "bits a weight", "types"):
        table.add_column(column, justify="left" if column == "types" else "right")
    for block in report.blocks:
        table.add_row(str(block.index), f"{block.bpw:.3f}", _describe(block.types))
    console.print(table)
    for key, value in report.lieq.items():
        console.print(f"lieq.{key}: {_short(value)}", highlight=False, markup=False)


def _by_block(
    tensors: Iterable[StoredTensor],
) -> tuple[dict[int, list[StoredTensor]], list[StoredTensor]]:
    """Matrices by block, and the matrices outside the blocks."""
    blocks: dict[int, list[StoredTensor]] = {}
    others = []
    for tensor in tensors:
        if len(tensor.shape) < 2:
            continue
        parts = tensor.name.split(".")
        if parts[0] == "blk" and len(parts) > 2 and parts[1].isdecimal():
            if is_matrix(tensor.name, tensor.shape):
                blocks.setdefault(int(parts[1]), []).append(tensor)
        else:
            others.append(tensor)
    return blocks, others


def _types(tensors: Iterable[StoredTensor]) -> dict[str, str]:
    return {t.name.split(".", 2)[2].removesuffix(".weight"): type_name(t.type) for t in tensors}


def _weights(tensors: Iterable[StoredTensor]) -> int:
    return sum(prod(tensor.shape) for tensor in tensors)


def _bpw(tensors: Iterable[StoredTensor]) -> float:
    tensors = tuple(tensors)
    return 8 * sum(tensor.nbytes for tensor in tensors) / max(_weights(tensors), 1)


def _summarise(name: str, tensors: Iterable[StoredTensor]) -> TypeSummary:
    chosen = [tensor for tensor in tensors if type_name(tensor.type) == name]
    return TypeSummary(name, len(chosen), _weights(chosen), sum(t.nbytes for t in chosen), _bpw(chosen))


def _tokenizer(header: Header) -> TokenizerSummary | None:
    def get(key: str) -> Any:
        return header.get(f"tokenizer.ggml.{key}")

    if get("model") is None:
        return None
    return TokenizerSummary(
        model=get("model"),
        pre=get("pre"),
        tokens=len(get("tokens") or ()),
        bos_id=get("bos_token_id"),
        eos_id=get("eos_token_id"),
        add_bos=get("add_bos_token"),
        chat_template=header.get("tokenizer.chat_template") is not None,
    )


def _describe(types: dict[str, str]) -> str:
    """The commonest type and, by name, what differs from it: ``Q2_K; attn_v Q4_K``."""
    usual = Counter(types.values()).most_common(1)[0][0]
    different: dict[str, list[str]] = {}
    for name, kind in types.items():
        if kind != usual:
            different.setdefault(kind, []).append(name)
    return "; ".join([usual, *(f"{', '.join(names)} {kind}" for kind, names in different.items())])


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
