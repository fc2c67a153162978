"""A model's answers to requests in tokens: from the cache where they were given before, else from llama.cpp.

Requests are answered in parcels of consecutive ones, each with an empty memory at its beginning, so that an answer
depends on the requests of its parcel alone. A finished parcel is an entry of the cache: work that was killed resumes at
the parcel it was in, and more items of a task add parcels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..llama.continuations import Continuations, Likelihood
from ..llama.prefixes import Scored, shared_tokens
from ..llama.vocabulary import Vocabulary
from ..store import Cache, Entry
from ..system.progress import stage

# About so many tokens go through the model for a parcel.
_PARCEL_TOKENS = 4096
# Prompts that are continued side by side.
_PROMPTS = 4


@dataclass(frozen=True)
class Prompt:
    """A text to be continued.

    Attributes:
        tokens: its ids.
        most: most tokens of the answer.
        stops: texts at which the answer ends, without them.
    """

    tokens: tuple[int, ...]
    most: int
    stops: tuple[str, ...]


class Answers:
    """Answers of one model."""

    def __init__(
        self, path: Callable[[], Path], vocabulary: Vocabulary, cache: Cache, *, label: str, threads: int | None
    ) -> None:
        """Prepare; nothing is loaded before the first request that has no answer in the cache.

        Args:
            path: function that gives the GGUF file.
            vocabulary: tokenizer of the model.
            cache: cache of this model's results.
            label: what messages call the model.
            threads: CPU threads; all cores when None.
        """
        self._path = path
        self._vocabulary = vocabulary
        self._cache = cache
        self._label = label
        self._threads = threads

    def likelihoods(self, rows: Sequence[Scored], title: str) -> list[Likelihood]:
        """The likelihood of the end of each row.

        Args:
            rows: texts, consecutive ones with common beginnings.
            title: title of the stage for progress, of which each row is a step.
        """
        answers: list[Likelihood] = []
        context = _rounded(max((len(row.tokens) for row in rows), default=0))
        with stage(title, len(rows)) as advance, _Lazy(self._load) as model:
            for parcel in _parcels(rows):
                entry = self._cache.entry(
                    "task-likelihoods",
                    _parts(parcel, context),
                    lambda parcel=parcel: _likelihood_entry(model(context).score(parcel)),  # type: ignore[misc]
                )
                logprobs, greedy = entry.arrays["logprob"].tolist(), entry.arrays["greedy"].tolist()
                answers += [Likelihood(*pair) for pair in zip(logprobs, greedy, strict=True)]
                for _ in parcel:
                    advance()
        return answers

    def texts(self, prompts: Sequence[Prompt], title: str) -> list[str]:
        """The most probable text after each prompt.

        Args:
            prompts: the prompts.
            title: title of the stage for progress, of which each prompt is a step.
        """
        answers: list[str] = []
        context = _rounded(_PROMPTS * max((len(prompt.tokens) + prompt.most for prompt in prompts), default=0))
        with stage(title, len(prompts)) as advance, _Lazy(self._load) as model:
            for start in range(0, len(prompts), _PROMPTS):
                part = prompts[start : start + _PROMPTS]
                entry = self._cache.entry(
                    "task-texts",
                    {
                        **_parts([Scored(prompt.tokens, len(prompt.tokens)) for prompt in part], context),
                        "most": [prompt.most for prompt in part],
                        "stops": [list(prompt.stops) for prompt in part],
                    },
                    lambda part=part: Entry({}, self._write(model(context), part)),  # type: ignore[misc]
                )
                answers += entry.record
                for _ in part:
                    advance()
        return answers

    def _load(self, context: int) -> Continuations:
        return Continuations(self._path(), context=context, threads=self._threads, label=self._label)

    def _write(self, model: Continuations, prompts: Sequence[Prompt]) -> list[str]:
        """The text after each prompt."""
        answers: list[str] = []
        for start in range(0, len(prompts), model.sequences):
            answers += self._write_together(model, prompts[start : start + model.sequences])
        return answers

    def _write_together(self, model: Continuations, prompts: Sequence[Prompt]) -> list[str]:
        def ends(number: int, answer: Sequence[int]) -> bool:
            if len(answer) >= prompts[number].most or self._vocabulary.ends(answer[-1]):
                return True
            stops = prompts[number].stops
            return bool(stops) and any(stop in self._vocabulary.detokenize(answer) for stop in stops)

        most = max(prompt.most for prompt in prompts)
        written = model.write([prompt.tokens for prompt in prompts], most, ends)
        # Tokens that end a text are special, and no part of it.
        texts = self._vocabulary.detokenize_many(written)
        return [_before(text, prompt.stops) for text, prompt in zip(texts, prompts, strict=True)]


class _Lazy:
    """A model that is loaded when it is first called for, and closed at the end of the block."""

    def __init__(self, load: Callable[[int], Continuations]) -> None:
        self._make = load
        self._model: Continuations | None = None

    def __enter__(self) -> _Lazy:
        return self

    def __call__(self, context: int) -> Continuations:
        if self._model is None:
            self._model = self._make(context)
        return self._model

    def __exit__(self, *_: object) -> None:
        if self._model is not None:
            self._model.close()


def _parcels(rows: Sequence[Scored]) -> Iterator[list[Scored]]:
    """Consecutive rows of about ``_PARCEL_TOKENS`` together, common beginnings counted once."""
    parcel: list[Scored] = []
    tokens = 0
    for row in rows:
        parcel.append(row)
        tokens += shared_tokens(parcel[-2:]) - (shared_tokens(parcel[-2:-1]) if len(parcel) > 1 else 0)
        if tokens >= _PARCEL_TOKENS:
            yield parcel
            parcel, tokens = [], 0
    if parcel:
        yield parcel


def _parts(rows: Sequence[Scored], context: int) -> dict[str, Any]:
    """What the answers to ``rows`` depend on beside the model."""
    return {
        "tokens": np.array([token for row in rows for token in row.tokens], np.int32),
        "lengths": [len(row.tokens) for row in rows],
        "firsts": [row.first for row in rows],
        "context": context,
    }


def _likelihood_entry(likelihoods: Sequence[Likelihood]) -> Entry:
    return Entry(
        {
            "logprob": np.array([one.logprob for one in likelihoods], np.float64),
            "greedy": np.array([one.greedy for one in likelihoods], np.bool_),
        }
    )


def _rounded(tokens: int) -> int:
    """A power of two, so that a task's last items seldom change the size of the context."""
    return 1 << max(8, (tokens - 1).bit_length())


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops that it has."""
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text
