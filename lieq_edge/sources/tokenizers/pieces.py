"""The vocabulary of a model as values, with the original tokenizer to compare it with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gguf import TokenType

from ...errors import InputError
from .original import Original

Encoder = Callable[[str], list[int]]


@dataclass(frozen=True)
class Pieces:
    """A vocabulary with the tokenizer that defines it.

    Attributes:
        model: ``tokenizer.ggml.model``: ``gpt2`` (byte-level BPE) or ``llama`` (sentencepiece).
        tokens: texts by id.
        types: ``gguf.TokenType`` by id.
        scores: by id, for ``llama`` only.
        merges: pairs of byte-level BPE, each joined by a space.
        encode: ids of a text by the original tokenizer, which finds added tokens in it and adds nothing.
        original: the tokenizer as transformers loads it.
        special_ids: ids by role (``bos``, ``eos``, ...), in the order in which they are written.
        ends: ids that end a text by any of the model's files.
        reply_ends: those at which transformers' ``generate`` ends a reply.
        reference: a second encoder whose tokens are right too: sentencepiece itself, where transformers only has a
            conversion of its model.
        likely: pre-tokenizer to try first.
        nearest: pre-tokenizer that stands for the original's rule where llama.cpp has no exact one, or None.
        notes: sentences for the user.
    """

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    merges: list[str]
    encode: Encoder
    original: Original
    special_ids: dict[str, int] = field(default_factory=dict)
    ends: tuple[int, ...] = ()
    reply_ends: tuple[int, ...] = ()
    reference: Encoder | None = None
    likely: str = "default"
    nearest: str | None = None
    notes: tuple[str, ...] = ()


def added_type(special: bool) -> int:
    """The type of an added token: transformers leaves special ones out of decoded text, as llama.cpp does CONTROL."""
    return int(TokenType.CONTROL if special else TokenType.USER_DEFINED)


def padded(tokens: dict[int, tuple[str, int]], rows: int, path: str) -> tuple[list[str], list[int]]:
    """Texts and types by id for all rows of the embedding; ids without a token get a placeholder.

    Args:
        tokens: text and type by id.
        rows: number of rows of the token embedding.
        path: file of the vocabulary, for messages.

    Raises:
        InputError: the vocabulary has ids beyond the embedding.
    """
    if max(tokens, default=-1) >= rows:
        raise InputError(
            f"{path} has a token with id {max(tokens)} ({tokens[max(tokens)][0]!r}) and the token embedding only "
            f"{rows} rows; the tokenizer does not belong to these weights."
        )
    entries = [tokens.get(i, (f"[PAD{i}]", int(TokenType.UNUSED))) for i in range(rows)]
    return [text for text, _ in entries], [kind for _, kind in entries]
