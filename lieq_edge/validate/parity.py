"""Check before long work that llama.cpp computes what transformers computes, on a small piece of the model.

The piece has the first blocks of the model in float32 and a few rows of its vocabulary: seconds and megabytes where the
whole model takes minutes and gigabytes, and a graph, a layout or a hyper-parameter that does not fit the weights shows
in it. Blocks differ only in what the configuration lists block by block, and every entry of such a list is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFValueType

from ..blockwise.model import BlockModel
from ..errors import InputError
from ..gguf.names import EMBEDDING, HEAD, TensorName
from ..llama.engine import Engine
from ..sources.base import Array, KeyValue, Source, TensorSpec
from ..sources.plain import plain_bytes, write_plain
from ..system.files import check_space, temporary_folder
from ..system.progress import stage

Logits = npt.NDArray[np.float32]

_TEXT = (
    'The first chapter, in 1984: "Isn\'t it odd?" she asked.\n\ndef area(r):\n    return 3.14159 * r ** 2\n'
    "Straße, naïve, 東京都, Привет; and so on, and so on. It is what it is."
)
_TOKENS = 48
_ROWS = 256
_FEWEST, _MOST = 2, 8
# Both compute in float32, but llama.cpp looks some activations up in tables of float16. A wrong graph differs by
# tenths of the logits' spread.
_TOLERANCE = 0.02
_BLOCK_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_VOCABULARY = (EMBEDDING, HEAD, "output.bias")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


class Piece(Source):
    """The first blocks of a model, with some rows of its vocabulary; llama.cpp loads it without a tokenizer."""

    def __init__(self, source: Source, blocks: int, rows: list[int]) -> None:
        """Cut ``source``.

        Args:
            blocks: number of blocks to keep, from the first.
            rows: token ids to keep, which become 0, 1, ...
        """
        self._source = source
        self._rows = rows
        self.label = source.label
        self.architecture = source.architecture
        self.n_blocks = blocks

    @property
    def content_hash(self) -> str:
        """Hash of the whole model."""
        return self._source.content_hash

    def tensors(self) -> list[TensorSpec]:
        specs = []
        for spec in self._source.tensors():
            block = TensorName.parse(spec.name).block
            if block is None or block < self.n_blocks:
                shape = (len(self._rows), *spec.shape[1:]) if spec.name in _VOCABULARY else spec.shape
                specs.append(TensorSpec(spec.name, shape, spec.stored))
        return specs

    def read(self, name: str) -> Array:
        array = self._source.read(name)
        return array[self._rows] if name in _VOCABULARY else array

    def metadata(self) -> list[KeyValue]:
        architecture = self.architecture
        changed = {f"{architecture}.block_count": self.n_blocks, f"{architecture}.vocab_size": len(self._rows)}
        values = [
            KeyValue(kv.key, changed.get(kv.key, self._cut(kv.value)), kv.type, kv.item_type)
            for kv in self._source.metadata()
            if not kv.key.startswith("tokenizer.")
        ]
        if not any(kv.key == f"{architecture}.vocab_size" for kv in values):
            values.append(KeyValue(f"{architecture}.vocab_size", len(self._rows), GGUFValueType.UINT32))
        return [*values, KeyValue("tokenizer.ggml.model", "no_vocab", GGUFValueType.STRING)]

    def config(self) -> dict[str, Any]:
        config = {key: self._cut(value) for key, value in self._source.config().items() if key not in _SPECIAL}
        config |= {key: self.n_blocks for key in _BLOCK_COUNTS if key in config}
        return config | {"vocab_size": len(self._rows), **dict.fromkeys(_SPECIAL)}

    def _cut(self, value: Any) -> Any:
        """A list with an entry for every block, without those of blocks that are left out."""
        per_block = isinstance(value, list) and len(value) == self._source.n_blocks
        return value[: self.n_blocks] if per_block else value

    def hf_name(self, name: str) -> str | None:
        return self._source.hf_name(name)

    def to_hf(self, name: str, array: Array) -> Array:
        # The original, because a mistake in the layout for llama.cpp would cancel itself on the way back.
        original = self._source.original(name)
        if original is None:
            return self._source.to_hf(name, array)
        return original[self._rows] if name in _VOCABULARY else original

    def tokenize(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        place = {row: index for index, row in enumerate(self._rows)}
        ids = self._source.tokenize(text, add_bos=add_bos, parse_special=parse_special)
        return [place[token] for token in ids if token in place]

    @property
    def bos_id(self) -> int | None:
        return None

    @property
    def adds_bos(self) -> bool:
        return False

    def detokenize(self, ids: list[int]) -> str:
        return self._source.detokenize([self._rows[index] for index in ids])


def cut_piece(source: Source, blocks: int | None = None) -> tuple[Piece, list[int]]:
    """A piece of ``source`` and a prompt for it, at most 48 token ids of the piece.

    Args:
        source: the model.
        blocks: number of blocks to keep; None keeps two, or more where kinds of blocks alternate.
    """
    ids = source.tokenize(_TEXT, add_bos=source.adds_bos)[:_TOKENS]
    vocabulary = next(spec.shape[0] for spec in source.tensors() if spec.name == EMBEDDING)
    others = range(0, vocabulary, max(1, vocabulary // _ROWS))
    rows = sorted({*ids, *list(others)[:_ROWS]})
    place = {row: index for index, row in enumerate(rows)}
    return Piece(source, blocks or _blocks_to_see(source), rows), [place[token] for token in ids]


def check_parity(source: Source, folder: Path, *, threads: int | None = None) -> None:
    """Compare the logits of both for a piece of ``source``.

    Args:
        source: the model.
        folder: folder of the piece's GGUF file, which is removed afterwards.
        threads: CPU threads of both.

    Raises:
        InputError: they differ; the sentence says by how much and from which token on.
    """
    piece, ids = cut_piece(source)
    expected, computed = _logits(piece, ids, folder, threads)
    if (difference := _difference(expected, computed)) <= _TOLERANCE:
        return
    first = int(np.argmax([_difference(*rows) > _TOLERANCE for rows in zip(expected, computed, strict=True)]))
    alone = _difference(*_logits(cut_piece(source, 1)[0], ids, folder, threads))
    where = "the first block alone differs already" if not alone <= _TOLERANCE else "the first block alone agrees"
    raise InputError(
        f"llama.cpp does not compute what transformers computes for {source.label}: with its first {piece.n_blocks} "
        f"blocks the logits differ by {100 * difference:.3g} % of their spread, from token "
        f"{len(ids) - 1 - len(computed) + first} of the check on ({where}); choose another model, or pass --no-parity."
    )


def _blocks_to_see(source: Source) -> int:
    """Number of blocks after which every kind has been seen that the configuration lists block by block."""
    last = _FEWEST
    for value in source.config().values():
        if isinstance(value, list) and len(value) == source.n_blocks:
            last = max(last, *(value.index(kind) + 1 for kind in value))
    return min(last, _MOST, source.n_blocks)


def _logits(piece: Piece, ids: list[int], folder: Path, threads: int | None) -> tuple[Logits, Logits]:
    """Logits ``(T, rows)`` of the second half of the prompt, by transformers and by llama.cpp."""
    check_space(folder, 2 * plain_bytes(piece))
    with stage("Comparing llama.cpp with transformers", piece.n_blocks + 2) as advance:
        with temporary_folder(folder) as temporary:
            path = Path(temporary) / "piece.gguf"
            write_plain(path, piece, "F32")
            advance()
            with Engine(path, context=len(ids), threads=threads, label=piece.label, exact=True) as engine:
                computed = engine.logits(np.array([ids], np.int32))[0]
                scored = slice(engine.first, engine.first + engine.scored)
            advance()
        model = BlockModel(piece, threads=threads)
        with torch.no_grad():
            hidden = model.embed(torch.tensor([ids]))
            for index in range(model.n_blocks):
                with model.block(index) as block:
                    hidden = model.run_block(block, index, hidden)
                advance()
            expected = model.logits(hidden[0, scored])
    return expected.numpy(), computed


def _difference(expected: Logits, computed: Logits) -> float:
    """Root mean square of the difference over that of the logits about their mean; NaN counts as infinite."""
    spread = expected - expected.mean(-1, keepdims=True)
    value = float(np.sqrt(np.square(expected - computed).mean() / max(float(np.square(spread).mean()), 1e-30)))
    return value if np.isfinite(value) else float("inf")
