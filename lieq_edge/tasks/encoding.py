"""Requests of the harness as tokens, by the rules of its own model for transformers (``HFLM``).

Context and continuation are cut into tokens together, with spaces at the end of the context moved to the continuation;
special tokens in a text become tokens; BOS goes before a text where the model's metadata says so and the text has none.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InputError
from ..llama.prefixes import Scored
from ..sources.base import TokenizingSource
from ..system.progress import log
from ..texts.windows import longest_window

_EOS_KEY = "tokenizer.ggml.eos_token_id"
# Where a model does not say how long its texts may be.
_USUAL_CONTEXT = 2048


class Encoder:
    """The tokenizer of a model, and how long its texts may be.

    Attributes:
        longest: most tokens of a text.
    """

    def __init__(self, source: TokenizingSource) -> None:
        self._source = source
        self._vocabulary = source.vocabulary
        values = {kv.key: kv.value for kv in source.metadata()}
        trained = values.get(f"{source.architecture}.context_length")
        self.longest = longest_window(source, trained if isinstance(trained, int) and trained > 0 else _USUAL_CONTEXT)
        eos = values.get(_EOS_KEY)
        self._prefix = source.bos_id if source.bos_id is not None else eos

    @property
    def prefix(self) -> int:
        """The token before a text that has nothing before it: BOS, or else EOS.

        Raises:
            InputError: the model has neither.
        """
        if self._prefix is None:
            raise InputError(
                f"{self._source.label} has neither BOS nor EOS, which stand before a text without context; "
                "choose other tasks."
            )
        return int(self._prefix)

    def encode(self, texts: Sequence[str], *, bos: bool = True) -> list[list[int]]:
        """Token ids of each text; with ``bos``, BOS before it where the model's rule wants that and it has none."""
        rows = self._vocabulary.tokenize_many(texts, parse_special=True)
        first = self._source.bos_id
        if not bos or not self._source.adds_bos or first is None:
            return rows
        return [row if row[:1] == [first] else [first, *row] for row in rows]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """Rows of contexts and continuations; what is longer than the model allows loses its beginning."""
        moved = [_with_spaces(*pair) for pair in pairs]
        together = self.encode([context + continuation for context, continuation in moved])
        contexts = self.encode([context for context, _ in moved])
        alone = self.encode([continuation for _, continuation in moved], bos=False)
        rows = []
        for (context, _), whole, before, after in zip(moved, together, contexts, alone, strict=True):
            if not context:
                rows.append(self._without_context(after))
                continue
            # A continuation that melts into the last token of the context is cut into tokens by itself.
            end = whole[len(before) :] or after
            rows.append(Scored((*before, *end), len(before)))
        return self._fitted(rows)

    def _without_context(self, after: Sequence[int]) -> Scored:
        start = self.prefix
        if after[:1] == [start] and len(after) > 1:
            return Scored(tuple(after), 1)
        return Scored((start, *after), 1)

    def _fitted(self, rows: Sequence[Scored]) -> list[Scored]:
        """The rows, the last ``longest + 1`` tokens of each: the last one is not read."""
        longest = max((len(row.tokens) for row in rows), default=0)
        if longest <= self.longest + 1:
            return list(rows)
        too_long = [row for row in rows if len(row.tokens) > self.longest + 1]
        log(
            f"Note: {len(too_long)} texts have up to {longest} tokens, more than the {self.longest} of "
            f"{self._source.label}; their beginnings are left out, as lm-eval does."
        )
        fitted = []
        for row in rows:
            cut = max(0, len(row.tokens) - self.longest - 1)
            fitted.append(Scored(row.tokens[cut:], max(1, row.first - cut)))
        return fitted


def _with_spaces(context: str, continuation: str) -> tuple[str, str]:
    """The pair with the spaces at the end of the context moved to the continuation."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
