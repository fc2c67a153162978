"""What files are scored on, and the reference that they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..llama.engine import UBATCH, Engine, Logits, Tokens
from ..store import Cache

if TYPE_CHECKING:
    from ..sources.base import Source
    from .reference import StreamedReference

Base = Callable[[slice], Iterable[tuple[slice, Logits]]]
"""A reference: its logits for some of the windows, in pieces of which each names its rows."""


@dataclass(frozen=True)
class ScoredText:
    """The text that files are scored on, and how it is cut.

    Attributes:
        text: the text.
        name: its name.
        context: tokens of a window.
        chunks: most windows to use; all when None.
        parse_special: special tokens in the text become tokens.
    """

    text: str
    name: str
    context: int
    chunks: int | None
    parse_special: bool

    @property
    def parallel(self) -> int:
        """Windows in a batch: short ones share it; longer batches than llama.cpp computes at once only cost memory."""
        return max(1, UBATCH // self.context)

    def cut(self, tokens: Tokens) -> Tokens:
        """The windows ``(n, context)`` of the text's tokens; what is left at the end is not used.

        Raises:
            InputError: the text is shorter than one window.
        """
        count = len(tokens) // self.context
        if count == 0:
            raise InputError(
                f"The text {self.name} has {len(tokens)} tokens, fewer than one window of {self.context}; "
                "give a longer text or a smaller context."
            )
        count = min(count, self.chunks or count)
        return tokens[: count * self.context].reshape(count, self.context)


class Original:
    """A reference that transformers runs, when the first file has told how the text is cut."""

    def __init__(self, source: Source, cache: Cache, threads: int) -> None:
        self._source, self._cache, self._threads = source, cache, threads
        self._reference: StreamedReference | None = None
        self._tokens: Tokens | None = None

    @property
    def is_ready(self) -> bool:
        """It has run."""
        return self._reference is not None

    def run(self, engine: Engine, tokens: Tokens, scored: ScoredText) -> None:
        """Run the original on the windows of ``engine``, which is closed to make room."""
        from .reference import StreamedReference  # PyTorch

        source = self._source
        read = engine.with_bos(scored.cut(tokens))
        positions = slice(engine.first, engine.first + engine.scored)
        engine.close()
        reference = StreamedReference(source, threads=self._threads)
        ids = source.tokenize(scored.text, add_bos=source.adds_bos, parse_special=scored.parse_special)
        self._tokens = np.array(ids, tokens.dtype)
        check_same(engine, tokens, reference.label, reference.n_vocab, self._tokens)
        reference.run(read, positions, self._cache)
        self._reference = reference

    def base(self, engine: Engine, tokens: Tokens) -> tuple[Base, str]:
        """The logits, and the name of the model."""
        assert self._reference is not None
        assert self._tokens is not None
        label = self._reference.label
        check_same(engine, tokens, label, self._reference.n_vocab, self._tokens)
        return self._reference.logits, label


def check_same(engine: Engine, tokens: Tokens, label: str, n_vocab: int, their_tokens: Tokens) -> None:
    """Refuse a reference called ``label`` whose tokenizer differs from the file's."""
    if n_vocab != engine.n_vocab:
        raise InputError(
            f"{label} has {n_vocab} tokens in its vocabulary and {engine.label} has {engine.n_vocab}; "
            "give a reference of the same model."
        )
    if not np.array_equal(their_tokens, tokens):
        raise InputError(
            f"{label} and {engine.label} cut the text into different tokens; give a reference with the same tokenizer."
        )
