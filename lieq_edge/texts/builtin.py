"""The built-in calibration text: prose, source code, and conversations rendered by the model's own chat template.

The pieces lie in ``shipped/``. They were written for lieq-edge and have its licence. Where a model wants more tokens
than they give, documentation of Python follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from gguf import Keys

from ..llama.rendering import Message, render_conversations
from ..llama.template import token_text
from ..sources.base import Source
from .documentation import stdlib_text
from .info import TextInfo

SEPARATOR = "\n---\n"
# Shares of the tokens, in turns: conversations are what small models are used for.
_SHARES = {"prose": 0.35, "code": 0.2, "conversations": 0.45}
_CHARACTERS_PER_TOKEN = 6


def builtin_tokens(source: Source, *, tokens: int, seed: int) -> tuple[list[int], TextInfo]:
    """Token ids of the text for a model.

    Args:
        source: model, for its tokenizer and its chat template.
        tokens: number of tokens that are wanted.
        seed: seed of the order of the pieces.

    Returns:
        At least ``tokens`` ids, if Python's documentation is long enough; and the record of the text.
    """
    kinds = {kind: iter(_shuffled(pieces, kind, seed)) for kind, pieces in _texts(source).items()}
    counts = dict.fromkeys(kinds, 0)
    ids: list[int] = []
    texts: list[str] = []
    while kinds and len(ids) < tokens:
        # The kind that is furthest behind its share is next.
        kind = min(kinds, key=lambda name: counts[name] / _SHARES[name])
        piece = next(kinds[kind], None)
        if piece is None:
            del kinds[kind]
            continue
        text, special = piece
        new = source.tokenize(text, parse_special=special)
        counts[kind] += len(new)
        ids += new
        texts.append(text)
    name = f"built-in text (seed {seed})"
    if len(ids) < tokens:
        text, more = stdlib_text("calibration", (tokens - len(ids)) * _CHARACTERS_PER_TOKEN, seed)
        ids += source.tokenize(text)
        texts.append(text)
        name += f" + {more}"
    return ids, TextInfo.of(name, "".join(texts), len(ids))


def _texts(source: Source) -> dict[str, list[tuple[str, bool]]]:
    """Pieces of each kind as text, and whether special tokens in them count as tokens."""
    values = {kv.key: kv.value for kv in source.metadata() if kv.key.startswith("tokenizer.")}
    template = values.get(Keys.Tokenizer.CHAT_TEMPLATE)
    conversations = render_conversations(
        shipped_conversations(),
        template if isinstance(template, str) else None,
        bos=token_text(values, values.get(Keys.Tokenizer.BOS_ID)),
        eos=token_text(values, values.get(Keys.Tokenizer.EOS_ID)),
        label=source.label,
    )
    plain = {kind: [(f"{piece}\n\n", False) for piece in shipped_pieces(kind)] for kind in ("prose", "code")}
    return {**plain, "conversations": conversations}


@cache
def shipped_pieces(kind: str) -> tuple[str, ...]:
    """The pieces of ``prose`` or ``code``."""
    return tuple(_read(f"{kind}.txt").strip().split(SEPARATOR))


@cache
def shipped_conversations() -> tuple[tuple[Message, ...], ...]:
    """Messages of each conversation."""
    lines = _read("conversations.jsonl").splitlines()
    return tuple(tuple(json.loads(line)["messages"]) for line in lines if line)


def _read(name: str) -> str:
    return (files(__package__) / "shipped" / name).read_text(encoding="utf-8")


def _shuffled(pieces: Sequence[tuple[str, bool]], kind: str, seed: int) -> Iterator[tuple[str, bool]]:
    order = np.random.default_rng([seed, *kind.encode()]).permutation(len(pieces))
    return (pieces[index] for index in order)
