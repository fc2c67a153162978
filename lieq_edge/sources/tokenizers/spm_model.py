"""Sentencepiece models (``tokenizer.model``), and the ``tokenizer.json`` that transformers makes of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType
from sentencepiece import SentencePieceProcessor

from ...errors import InputError

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # ModelProto.SentencePiece.Type
_BPE = 2  # TrainerSpec.ModelType


@dataclass(frozen=True)
class SpmModel:
    """A sentencepiece model.

    Attributes:
        processor: the library's.
        tokens: text and ``gguf.TokenType`` by id.
        scores: by id.
        kinds: sentencepiece's own types by id.
        bpe: the model is of the BPE kind.
    """

    processor: Any
    tokens: dict[int, tuple[str, int]]
    scores: dict[int, float]
    kinds: list[int]
    bpe: bool

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` by sentencepiece itself."""
        return list(self.processor.encode(text))

    @property
    def ids(self) -> dict[str, int]:
        """Ids by text as the model spells it."""
        return {self.processor.id_to_piece(index): index for index in self.tokens}


def read_spm(path: Path) -> SpmModel:
    """Read a sentencepiece model.

    Raises:
        InputError: it cannot be loaded.
    """
    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} is not a sentencepiece model ({error}); fetch it again.") from error
    tokens, scores = {}, {}
    kinds, bpe = _declared(path.read_bytes())
    for index in range(processor.vocab_size()):
        kind = TokenType.USER_DEFINED if kinds and kinds[index] == _USER_DEFINED else TokenType.NORMAL
        for test, special in (
            (processor.is_unknown, TokenType.UNKNOWN),
            (processor.is_control, TokenType.CONTROL),
            (processor.is_unused, TokenType.UNUSED),
            (processor.is_byte, TokenType.BYTE),
        ):
            if test(index):
                kind = special
        text = processor.id_to_piece(index)
        # llama.cpp looks for user-defined ones in the text as it is.
        tokens[index] = (text.replace("▁", " ") if kind == TokenType.USER_DEFINED else text, int(kind))
        scores[index] = float(processor.get_score(index))
    return SpmModel(processor, tokens, scores, kinds, bpe)


def spm_roles(model: SpmModel) -> dict[str, int]:
    """Ids by role that the model itself knows."""
    processor = model.processor
    ids = {"bos": processor.bos_id(), "eos": processor.eos_id(), "unk": processor.unk_id(), "pad": processor.pad_id()}
    return {role: index for role, index in ids.items() if index >= 0}


def piece_types(model: bytes) -> list[int]:
    """The type of every piece of a sentencepiece model (sentencepiece_model.proto), which the library hides.

    Raises:
        LookupError: it ends within a number.
    """
    return _declared(model)[0]


def _declared(model: bytes) -> tuple[list[int], bool]:
    """Types of the pieces, and whether the model is of the BPE kind."""
    kinds, bpe = [], False
    for field, value in _fields(model):
        if field == 1 and isinstance(value, bytes):
            # A normal piece does not say its type.
            kinds.append(next((kind for number, kind in _fields(value) if number == 3), _NORMAL))
        if field == 2 and isinstance(value, bytes):
            bpe = any(number == 3 and kind == _BPE for number, kind in _fields(value))
    return [kind for kind in kinds if isinstance(kind, int)], bpe


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer; values of a fixed size stay bytes."""
    at = 0

    def number() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        size = number() if kind == 2 else 8 if kind == 1 else 4
        yield key >> 3, message[at : at + size]
        at += size


def write_json(model: SpmModel, path: Path, settings: dict[str, Any]) -> None:
    """Write the ``tokenizer.json`` that transformers 5 would make of ``model``.

    transformers itself needs the protobuf library for that. Classes of transformers take vocabulary, merges and added
    tokens from the file and bring the rest; the unknown class takes the file as it is.

    Args:
        model: the sentencepiece model.
        path: file to write.
        settings: ``tokenizer_config.json``.
    """
    vocabulary = model.ids
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": declared_tokens(model),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
        },
        "pre_tokenizer": None,
        "post_processor": _post_processor(model, vocabulary, settings),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.processor.id_to_piece(model.processor.unk_id()),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": _merges(vocabulary),
        },
    }
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def declared_tokens(model: SpmModel) -> list[dict[str, Any]]:
    """The control and user-defined pieces of ``model`` as added tokens of a ``tokenizer.json``."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": text, **flags, "special": model.kinds[index] == _CONTROL}
        for text, index in model.ids.items()
        if model.kinds[index] in (_CONTROL, _USER_DEFINED)
    ]


def _post_processor(model: SpmModel, vocabulary: dict[str, int], settings: dict[str, Any]) -> dict[str, Any]:
    """BOS and EOS as the settings ask for them, which transformers ignores beside a ``tokenizer.json``."""
    around: dict[str, str] = {}
    special = {}
    for role in ("bos", "eos"):
        token = settings.get(f"{role}_token", spm_roles(model).get(role))
        text = token.get("content") if isinstance(token, dict) else token
        text = model.processor.id_to_piece(text) if isinstance(text, int) else text
        if settings.get(f"add_{role}_token") and isinstance(text, str):
            index = vocabulary.get(text, _declared_id(settings, text))
            if index is not None:
                around[role] = text
                special[text] = {"id": text, "ids": [index], "tokens": [text]}

    def sequence(name: str, kind: int) -> list[dict[str, Any]]:
        before, after = (
            [{"SpecialToken": {"id": around[role], "type_id": kind}}] if role in around else []
            for role in ("bos", "eos")
        )
        return [*before, {"Sequence": {"id": name, "type_id": kind}}, *after]

    single = sequence("A", 0)
    pair = [*single, *sequence("B", 1)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _declared_id(settings: dict[str, Any], text: str) -> int | None:
    """The id of an added token in ``added_tokens_decoder``."""
    entries = settings.get("added_tokens_decoder") or {}
    return next((int(index) for index, entry in entries.items() if entry.get("content") == text), None)


def _merges(vocabulary: dict[str, int]) -> list[list[str]]:
    """Pairs that make a piece, in the order of the pieces (transformers' ``generate_merges``)."""
    merges = []
    for piece, rank in vocabulary.items():
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        parts = [(left, right) for left, right in cuts if left in vocabulary and right in vocabulary]
        parts.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(rank, len(left), len(right), left, right) for left, right in parts]
    merges.sort(key=lambda merge: merge[:3])
    return [[left, right] for *_, left, right in merges]
