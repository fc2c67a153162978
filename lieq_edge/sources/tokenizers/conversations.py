"""Rendered conversations: llama.cpp has to give them the tokens that ``apply_chat_template`` gives them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguf import TokenType

from ...errors import InputError
from ...llama.vocabulary import Vocabulary
from .original import Message
from .pieces import Pieces

_SYSTEM: Message = {"role": "system", "content": "Answer briefly, in plain text."}
_FIRST: list[Message] = [{"role": "user", "content": "What is 12 + 30?\n\n  def add(a, b):\n\treturn a + b"}]
_LATER: list[Message] = [
    {"role": "assistant", "content": "It is 42."},
    {"role": "user", "content": " And why isn't it 43?"},
]

CONVERSATIONS: tuple[tuple[list[Message], bool], ...] = (
    (_FIRST, False),
    (_FIRST, True),
    ([_SYSTEM, *_FIRST], True),
    ([*_FIRST, *_LATER], True),
    ([_SYSTEM, *_FIRST, *_LATER], False),
)
"""Messages, and whether the text ends where the assistant's reply begins."""

_FOUND = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


def check_conversations(vocabulary: Vocabulary, pieces: Pieces, label: str) -> list[str]:
    """Compare the tokens of rendered conversations.

    A difference is known and harmless where it comes from the white space beside a special token: the stretches between
    these tokens then give the same tokens when each stands alone.

    Args:
        vocabulary: llama.cpp's tokenizer.
        pieces: the original.
        label: the model's name, for messages.

    Returns:
        A note when white space beside special tokens is treated otherwise.

    Raises:
        InputError: tokens differ for any other reason.
    """
    notes: list[str] = []
    for text in _rendered(pieces):
        expected, ids = pieces.encode(text), vocabulary.tokenize(text, parse_special=True)
        if ids == expected:
            continue
        at = next((i for i, pair in enumerate(zip(ids, expected, strict=False)) if pair[0] != pair[1]), len(ids))
        clause = f"{_shown(pieces, expected[at : at + 3])} where llama.cpp has {_shown(pieces, ids[at : at + 3])}"
        if _special(pieces, ids) != _special(pieces, expected) or not _alone(vocabulary, pieces, text):
            raise InputError(
                f"A conversation of {label} gives other tokens in llama.cpp than in transformers ({clause}); choose "
                "another model, or give a GGUF file of this one, whose tokenizer is taken as it is."
            )
        notes = [
            f"In conversations llama.cpp treats the white space beside special tokens of {label} otherwise than "
            f"transformers: that has {clause}."
        ]
    return notes


def template_notes(pieces: Pieces, label: str) -> list[str]:
    """A note about a chat template that renders no conversation, so that none could be compared."""
    if "default" not in pieces.original.templates or any(True for _ in _rendered(pieces)):
        return []
    return [f"transformers renders no conversation by the chat template of {label}; it is written as it is."]


def _rendered(pieces: Pieces) -> Iterator[str]:
    if "default" in pieces.original.templates:
        for messages, prompt in CONVERSATIONS:
            text = pieces.original.render(messages, prompt=prompt)
            if text is not None:
                yield text


def _special(pieces: Pieces, ids: list[int]) -> list[int]:
    return [i for i in ids if i >= len(pieces.types) or pieces.types[i] in _FOUND]


def _alone(vocabulary: Vocabulary, pieces: Pieces, text: str) -> bool:
    """Whether each stretch between special tokens gives the same tokens in both."""
    special = [t for t, kind in zip(pieces.tokens, pieces.types, strict=True) if kind in _FOUND and t and t in text]
    if not special:
        return False
    pattern = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
    stretches = [stretch for stretch in re.split(pattern, text) if stretch.strip()]
    return all(_same(vocabulary, pieces, stretch.strip(" ")) for stretch in stretches)


def _same(vocabulary: Vocabulary, pieces: Pieces, text: str) -> bool:
    ids = vocabulary.tokenize(text, parse_special=True)
    return ids == pieces.encode(text) or (pieces.reference is not None and ids == pieces.reference(text))


def _shown(pieces: Pieces, ids: list[int]) -> str:
    return " ".join(repr(pieces.tokens[i]) if i < len(pieces.tokens) else str(i) for i in ids) or "nothing"
