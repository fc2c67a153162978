"""Byte-level BPE vocabularies (``tokenizer.ggml.model`` = ``gpt2``) from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf import TokenType

from ...errors import InputError
from .tokenizer import AddedToken, Pieces, padded


def is_byte_level(document: dict[str, Any]) -> bool:
    """True when a tokenizer.json is BPE over the 256 bytes."""
    parts = [document.get("pre_tokenizer") or {}, document.get("decoder") or {}]
    while parts:
        part = parts.pop()
        if part.get("type") == "ByteLevel":
            return bool((document.get("model") or {}).get("type") == "BPE")
        parts += (part.get("pretokenizers") or []) + (part.get("decoders") or [])
    return False


def read_byte_level(path: Path, document: dict[str, Any], rows: int) -> Pieces:
    """The vocabulary of a byte-level tokenizer.json.

    Raises:
        InputError: the file cannot be loaded, or has more tokens than the embedding has rows.
    """
    tokenizer = load_tokenizer(path)
    tokens = {index: (text, int(TokenType.NORMAL)) for text, index in document["model"]["vocab"].items()}
    for entry in document.get("added_tokens") or []:
        added = AddedToken(entry["content"], bool(entry.get("special")))
        tokens[entry["id"]] = (added.text, int(added.type))
    texts, types = padded(tokens, rows, str(path))
    encode, adds_bos = encoder_of(tokenizer, path)
    likely, exact = _likely(document)
    return Pieces("gpt2", texts, types, None, encode, adds_bos, {}, likely, None if exact else likely)


def encoder_of(tokenizer: Any, path: Path) -> tuple[Callable[[str], list[int]], bool]:
    """The encoder of a ``tokenizers.Tokenizer`` (nothing added), and whether the original puts BOS before a text.

    Raises:
        InputError: the library cannot run it; the encoder may raise this later as well.
    """

    def ids(text: str, special: bool) -> list[int]:
        try:
            return list(tokenizer.encode(text, add_special_tokens=special).ids)
        except BaseException as error:
            # The Rust library raises plain Exception, and where it panics something that is no Exception at all.
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            raise InputError(f"{path} is a tokenizer that cannot be run ({error}); fetch it again.") from error

    def encode(text: str) -> list[int]:
        return ids(text, False)

    # An added BOS shows: the ids of any text then begin with a token that the text has not.
    return encode, ids("a", True)[:1] != encode("a")[:1]


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


def load_tokenizer(path: Path) -> Any:
    """``tokenizers.Tokenizer`` of ``path``, without truncation or padding.

    Raises:
        InputError: the library refuses the file.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise InputError(f"{path} is no tokenizer that can be loaded ({error}); fetch it again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
