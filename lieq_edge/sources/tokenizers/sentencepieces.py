"""Sentencepiece vocabularies (``tokenizer.ggml.model`` = ``llama``) from tokenizer.model or tokenizer.json."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gguf import TokenType

from ...errors import InputError
from .bpe import encoder_of, load_tokenizer
from .tokenizer import AddedToken, Pieces, padded

_ADDED_SCORE = -1000.0
_UNUSED_SCORE = -10000.0
_USER_DEFINED = 4  # ModelProto.SentencePiece.Type


def read_model_pieces(path: Path, document: dict[str, Any] | None, added: dict[int, AddedToken], rows: int) -> Pieces:
    """The vocabulary of a tokenizer.model; a tokenizer.json beside it is what it is compared with.

    Raises:
        InputError: the file cannot be loaded, or has more tokens than the embedding has rows.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} is no sentencepiece model ({error}); fetch it again.") from error
    tokens, scores = {}, {}
    # With a tokenizer.json beside it, that is the original, which knows of added tokens only.
    declared = piece_types(path.read_bytes()) if document is None else []
    for i in range(processor.vocab_size()):
        kind = TokenType.USER_DEFINED if declared and declared[i] == _USER_DEFINED else TokenType.NORMAL
        for test, special in (
            (processor.is_unknown, TokenType.UNKNOWN),
            (processor.is_control, TokenType.CONTROL),
            (processor.is_unused, TokenType.UNUSED),
            (processor.is_byte, TokenType.BYTE),
        ):
            if test(i):
                kind = special
        text = processor.id_to_piece(i)
        # llama.cpp looks for user-defined ones in the text as it is.
        tokens[i] = (text.replace("▁", " ") if kind == TokenType.USER_DEFINED else text, int(kind))
        scores[i] = float(processor.get_score(i))
    if document is not None:
        document_path = path.with_name("tokenizer.json")
        encode, adds_bos = encoder_of(load_tokenizer(document_path), document_path)
    else:

        def encode(text: str) -> list[int]:
            return list(processor.encode(text))

        adds_bos = None
    roles = {"bos": processor.bos_id(), "eos": processor.eos_id(), "unk": processor.unk_id()}
    roles["pad"] = processor.pad_id()
    special_ids = {role: index for role, index in roles.items() if index >= 0}
    return _pieces(path, tokens, scores, added, rows, encode, adds_bos, special_ids)


def piece_types(model: bytes) -> list[int]:
    """The type of every piece of a sentencepiece model (sentencepiece_model.proto), which the library does not tell.

    Raises:
        LookupError: it ends within a number.
    """
    types = []
    for field, piece in _fields(model):
        if field == 1 and isinstance(piece, bytes):
            # 1 is a normal piece, which is not written.
            types.append(next((value for number, value in _fields(piece) if number == 3), 1))
    return [kind for kind in types if isinstance(kind, int)]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of the fields of a protocol buffer; what is fixed in size stays bytes."""
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


def read_json_pieces(path: Path, document: dict[str, Any], added: dict[int, AddedToken], rows: int) -> Pieces:
    """The vocabulary of a tokenizer.json that was made from a sentencepiece BPE model.

    Sentencepiece joins the pair whose piece has the highest score, BPE the pair that was learnt first: the
    rank of the merge that makes a piece, negated, serves as its score.

    Raises:
        InputError: the tokenizer is of another kind.
    """
    model = document.get("model") or {}
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        kind = model.get("type", "unknown")
        raise InputError(
            f"{path} is a tokenizer of type {kind} that llama.cpp has not for these models (byte-level BPE and "
            "sentencepiece BPE it has); choose another model."
        )
    unknown = model.get("unk_token")
    tokens = {}
    for text, index in model["vocab"].items():
        kind = TokenType.NORMAL
        if text == unknown:
            kind = TokenType.UNKNOWN
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            kind = TokenType.BYTE
        tokens[index] = (text, int(kind))
    scores = dict.fromkeys(tokens, -float(len(model["merges"])))
    for rank, merge in reversed(list(enumerate(model["merges"]))):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        scores[model["vocab"]["".join(pair)]] = -float(rank)
    encode, adds_bos = encoder_of(load_tokenizer(path), path)
    special_ids = {} if unknown not in model["vocab"] else {"unk": model["vocab"][unknown]}
    return _pieces(path, tokens, scores, added, rows, encode, adds_bos, special_ids)


def _pieces(
    path: Path,
    tokens: dict[int, tuple[str, int]],
    scores: dict[int, float],
    added: dict[int, AddedToken],
    rows: int,
    encode: Callable[[str], list[int]],
    adds_bos: bool | None,
    special_ids: dict[str, int],
) -> Pieces:
    for index, token in added.items():
        if index < rows:
            text = token.text if token.type == TokenType.CONTROL else token.text.replace("▁", " ")
            # The unknown token stays what it is: llama.cpp falls back to it.
            if tokens.get(index, ("", 0))[1] != TokenType.UNKNOWN:
                tokens[index] = (text, int(token.type))
                scores[index] = _ADDED_SCORE
    texts, types = padded(tokens, rows, str(path))
    values = [scores.get(i, _UNUSED_SCORE) for i in range(rows)]
    return Pieces("llama", texts, types, values, encode, adds_bos, special_ids)
