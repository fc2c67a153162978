"""Text that the model itself writes, as calibration that needs no data (the idea of LLM-QAT, arXiv 2305.17888)."""

from __future__ import annotations

from gguf import Keys

from ..evidence.blocks.records import TextInfo
from ..sources.base import Source
from ..store import NO_CACHE, Cache, Entry
from .windows import Windows, WriteText, text_info

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
    write: WriteText,
    cache: Cache = NO_CACHE,
) -> tuple[Windows, TextInfo]:
    """Windows that the model of ``source`` writes: int64 ``(n, context)``, and the record of their text.

    Half of them start from BOS alone where the model has one, the others from ``PROMPTS``.
    """
    n = max(1, tokens // context)
    start = [source.bos_id] if source.bos_id is not None else []
    lead = start if source.adds_bos else []
    openings = []
    for i in range(n):
        prompted = lead + source.tokenize(PROMPTS[i // 2 % len(PROMPTS) if start else i % len(PROMPTS)])
        openings.append(start if start and i % 2 == 0 else prompted[: context - 1])
    stop = _end_ids(source)

    parts = {"openings": openings, "context": context, "seed": seed, "stop": stop}
    ids = cache.entry("calibration-text", parts, lambda: Entry({"ids": write(openings, context, seed, stop)})).arrays[
        "ids"
    ]
    text = "\n".join(source.detokenize(row) for row in ids.tolist())
    return ids, text_info(f"self-generated (seed {seed})", text, ids.size)


def _end_ids(source: Source) -> frozenset[int]:
    if source.in_transformers:
        end = source.config().get("eos_token_id")
    else:
        end = next((kv.value for kv in source.metadata() if kv.key == Keys.Tokenizer.EOS_ID), None)
    return frozenset([end] if isinstance(end, int) else end or [])
