"""Sentencepiece vocabularies (``tokenizer.ggml.model`` = ``llama``)."""

from __future__ import annotations

import re
from typing import Any

from gguf import TokenType

from ...errors import InputError
from .original import Original
from .pieces import Pieces, added_type, padded
from .spm_model import SpmModel, spm_roles

_ADDED_SCORE = -1000.0
_UNUSED_SCORE = -10000.0


def read_sentencepieces(
    original: Original, model: SpmModel | None, added: dict[int, tuple[str, bool]], rows: int
) -> Pieces:
    """The vocabulary of a tokenizer that was made from a sentencepiece BPE model.

    Args:
        original: the tokenizer.
        model: the sentencepiece model, where the directory has it.
        added: texts of added tokens by id, and whether they are special.
        rows: number of rows of the token embedding.

    Raises:
        InputError: the tokenizer is of another kind, or has more tokens than the embedding has rows.
    """
    document = original.document["model"]
    if document.get("type") != "BPE" or not document.get("byte_fallback"):
        raise InputError(
            f"{original.path} is a tokenizer of type {document.get('type', 'unknown')} without a token for every byte, "
            "which llama.cpp cannot run for these models (it runs byte-level BPE and sentencepiece BPE); choose "
            "another model."
        )
    unknown = original.roles.get("unk", document["vocab"].get(document.get("unk_token")))
    roles: dict[str, int] = {}
    if model is not None and model.ids.items() <= document["vocab"].items():
        tokens, scores, roles = dict(model.tokens), dict(model.scores), spm_roles(model)
    else:
        tokens, scores = _ranked(document, unknown)
    for index, (text, special) in added.items():
        # The unknown token stays what it is: llama.cpp falls back to it.
        if tokens.get(index, ("", 0))[1] != TokenType.UNKNOWN:
            tokens[index] = (text if special else text.replace("▁", " "), added_type(special))
            scores[index] = _ADDED_SCORE
    texts, types = padded(tokens, rows, str(original.path))
    values = [scores.get(index, _UNUSED_SCORE) for index in range(rows)]
    return Pieces("llama", texts, types, values, [], original.encode, original, special_ids=roles)


def _ranked(document: dict[str, Any], unknown: int | None) -> tuple[dict[int, tuple[str, int]], dict[int, float]]:
    """Tokens and scores of a BPE model.

    Sentencepiece joins the pair whose piece has the highest score, BPE the pair that was learnt first: the rank of the
    merge that makes a piece, negated, serves as its score.
    """
    tokens = {}
    for text, index in document["vocab"].items():
        kind = TokenType.NORMAL
        if index == unknown:
            kind = TokenType.UNKNOWN
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            kind = TokenType.BYTE
        tokens[index] = (text, int(kind))
    scores = dict.fromkeys(tokens, -float(len(document["merges"])))
    for rank, merge in reversed(list(enumerate(document["merges"]))):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        scores[document["vocab"]["".join(pair)]] = -float(rank)
    return tokens, scores
