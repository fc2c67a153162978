"""The built-in calibration text: prose, source code, and conversations rendered by the model's own chat template.

The pieces lie in ``shipped/``. They were written for lieq-edge and have its licence. Where a model wants more tokens
than they give, documentation of Python follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import numpy as np
from gguf import Keys

from ..sources.base import Source
from .documentation import stdlib_text
from .info import TextInfo
from .rendering import Message, Renderer

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
    kinds = {kind: iter(_shuffled(pieces, kind, seed)) for kind, pieces in _pieces().items()}
    renderer = _renderer(source)
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
        text, special = renderer.render(piece) if isinstance(piece, tuple) else (f"{piece}\n\n", False)
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


@cache
def _pieces() -> dict[str, tuple[str | tuple[Message, ...], ...]]:
    folder = files(__package__) / "shipped"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    conversations = (json.loads(line)["messages"] for line in read("conversations.jsonl").splitlines() if line)
    return {
        "prose": tuple(read("prose.txt").strip().split(SEPARATOR)),
        "code": tuple(read("code.txt").strip().split(SEPARATOR)),
        "conversations": tuple(map(tuple, conversations)),
    }


def _shuffled(
    pieces: tuple[str | tuple[Message, ...], ...], kind: str, seed: int
) -> Iterator[str | tuple[Message, ...]]:
    order = np.random.default_rng([seed, *kind.encode()]).permutation(len(pieces))
    return (pieces[index] for index in order)


def _renderer(source: Source) -> Renderer:
    values = {kv.key: kv.value for kv in source.metadata() if kv.key.startswith("tokenizer.")}
    tokens = values.get(Keys.Tokenizer.LIST, [])

    def text_of(key: str) -> str:
        index = values.get(key)
        return str(tokens[index]) if isinstance(index, int) and 0 <= index < len(tokens) else ""

    template = values.get(Keys.Tokenizer.CHAT_TEMPLATE)
    return Renderer(
        template if isinstance(template, str) else None,
        bos=text_of(Keys.Tokenizer.BOS_ID),
        eos=text_of(Keys.Tokenizer.EOS_ID),
    )
