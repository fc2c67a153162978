"""Calibration text that the model itself writes, which needs no data (the idea of LLM-QAT, arXiv 2305.17888)."""

from __future__ import annotations

from collections.abc import Callable

from gguf import Keys

from ..sources.base import Source
from ..store import NO_CACHE, Cache, Entry
from .info import TextInfo, Windows

Write = Callable[[list[list[int]], int, int, frozenset[int]], Windows]
"""Samples from the model: openings, length of every sequence, seed, ids that end a text -> ids ``(n, length)``."""

PROMPTS = (
    "The history of",
    "In a small town by the sea,",
    "Scientists have found that",
    "Question: What is the difference between",
    "Dear Sir or Madam,",
    "Step 1:",
    "def main():\n",
    "The following table shows",
    "According to the report,",
    "Once upon a time",
    "How to make",
    "import numpy as np\n",
    "Breaking news:",
    "He looked at her and said,",
    "Theorem. Let",
    "It is often said that",
)
"""Short neutral openings in several styles."""


def self_windows(
    source: Source,
    *,
    tokens: int,
    context: int,
    seed: int,
    write: Write,
    cache: Cache = NO_CACHE,
) -> tuple[Windows, TextInfo]:
    """Windows that the model of ``source`` writes.

    Half of them start from BOS alone if the model has one, the others from ``PROMPTS``.

    Args:
        source: model, for its tokenizer.
        tokens: approximate number of tokens of all windows.
        context: tokens of a window.
        seed: seed of the sampling.
        write: samples from the model.
        cache: cache of this model's results.

    Returns:
        Token ids ``(n, context)`` and the record of their text.
    """
    n = max(1, tokens // context)
    start = [source.bos_id] if source.bos_id is not None else []
    lead = start if source.adds_bos else []
    openings = []
    for i in range(n):
        prompted = lead + source.tokenize(PROMPTS[i // 2 % len(PROMPTS) if start else i % len(PROMPTS)])
        openings.append(start if start and i % 2 == 0 else prompted[: context - 1])
    stop = end_of_text_ids(source)

    def measure() -> Entry:
        return Entry({"ids": write(openings, context, seed, stop)})

    parts = {"openings": openings, "context": context, "seed": seed, "stop": stop}
    ids = cache.entry("calibration-text", parts, measure).arrays["ids"]
    text = "\n".join(source.detokenize(row) for row in ids.tolist())
    return ids, TextInfo.of(f"self-generated (seed {seed})", text, ids.size)


def end_of_text_ids(source: Source) -> frozenset[int]:
    """Token ids that end a text: all of the configuration where there is one, otherwise the one of GGUF."""
    if source.in_transformers:
        ids = source.config().get("eos_token_id")
    else:
        ids = next((kv.value for kv in source.metadata() if kv.key == Keys.Tokenizer.EOS_ID), None)
    return frozenset([ids] if isinstance(ids, int) else ids or [])
