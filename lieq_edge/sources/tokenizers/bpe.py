"""Byte-level BPE vocabularies (``tokenizer.ggml.model`` = ``gpt2``)."""

from __future__ import annotations

import functools
import json
from typing import Any

from gguf import TokenType

from .original import Original
from .pieces import Pieces, added_type, padded


def is_byte_level(document: dict[str, Any]) -> bool:
    """True when a ``tokenizer.json`` is BPE over the 256 bytes."""
    parts = [document.get("pre_tokenizer") or {}, document.get("decoder") or {}]
    while parts:
        part = parts.pop()
        if part.get("type") == "ByteLevel":
            return bool((document.get("model") or {}).get("type") == "BPE")
        parts += (part.get("pretokenizers") or []) + (part.get("decoders") or [])
    return False


def read_byte_level(original: Original, added: dict[int, tuple[str, bool]], rows: int) -> Pieces:
    """The vocabulary of a byte-level tokenizer.

    Args:
        original: the tokenizer.
        added: texts of added tokens by id, and whether they are special.
        rows: number of rows of the token embedding.

    Raises:
        InputError: it has more tokens than the embedding has rows.
    """
    model = original.document["model"]
    tokens = {index: (text, int(TokenType.NORMAL)) for text, index in model["vocab"].items()}
    tokens |= {index: (text, added_type(special)) for index, (text, special) in added.items()}
    texts, types = padded(tokens, rows, str(original.path))
    likely, exact = _likely(original.document)
    merges = [" ".join(_visible(part) for part in _pair(merge)) for merge in model["merges"]]
    return Pieces(
        "gpt2",
        texts,
        types,
        None,
        merges,
        original.encode,
        original,
        likely=likely,
        nearest=None if exact else likely,
    )


def _pair(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _visible(part: str) -> str:
    """A part of a merge without spaces, as gguf's own reader writes them."""
    return "".join(chr(ord(c) + 256) if c == " " else c for c in part)


def _likely(document: dict[str, Any]) -> tuple[str, bool]:
    """The pre-tokenizer that the split rule looks like, and whether llama.cpp has that rule exactly.

    Rules that differ in digits only give the same tokens where no token has two digits, and those that differ in
    whether whole words are looked up before merging where every word can be merged; the file should then still bear
    the right name.
    """
    rule = json.dumps(document.get("pre_tokenizer"), ensure_ascii=False)
    if "\\\\p{Lu}" in rule:
        # llama.cpp's form of both knows capitals of ASCII only, and no combining marks.
        return ("gpt-4o" if "{1,3}" in rule else "tekken"), "\\\\p{M}" not in rule
    if "{1,3}" in rule:
        return ("llama-bpe" if document["model"].get("ignore_merges") else "dbrx"), True
    if "\\\\p{N}" in rule:
        return "qwen2", True
    return ("smollm" if '"Digits"' in rule else "gpt-2"), True


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (``bytes_to_unicode``)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def text_of(token: str) -> str:
    """The text of a token; empty where its bytes are no UTF-8."""
    alphabet = _byte_alphabet()
    try:
        return bytes(alphabet[c] for c in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return ""
