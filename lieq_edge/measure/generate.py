"""Text that the model itself writes, as calibration that needs no data (the idea of LLM-QAT, arXiv 2305.17888)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..progress import stage
from ..source.base import Source
from .diagnostics import TextInfo
from .model import BlockModel
from .texts import text_info

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
    source: Source, *, tokens: int, context: int, seed: int = 0, threads: int | None = None
) -> tuple[Tensor, TextInfo]:
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
    ids = generate(BlockModel(source, threads=threads), openings, context, seed=seed, stop=_end_ids(source))
    text = "\n".join(source.detokenize(row) for row in ids.tolist())
    return ids, text_info(f"self-generated (seed {seed})", text, ids.numel())


@torch.no_grad()
def generate(
    model: BlockModel, openings: list[list[int]], length: int, *, seed: int = 0, stop: frozenset[int] = frozenset()
) -> Tensor:
    """Sample from the model's own distribution, all sequences side by side.

    Args:
        model: its blocks are all brought into memory meanwhile.
        openings: at least one token each; after an end of text a sequence starts anew with its opening.
        length: tokens of every sequence.
        seed: of the sampling.
        stop: ids that end a text.

    Returns:
        int64 ``(len(openings), length)``.
    """
    from transformers import DynamicCache

    generator = torch.Generator().manual_seed(seed)
    # Tokens still to be put in, by sequence; a sequence whose list is empty samples its next token.
    pending = [list(opening) for opening in openings]
    ids = torch.empty(len(openings), length, dtype=torch.long)
    sampled = torch.zeros(len(openings), dtype=torch.long)
    with model.whole() as causal_lm, stage("Writing calibration text", length) as advance:
        cache: Any = DynamicCache()
        for position in range(length):
            for row, queue in enumerate(pending):
                ids[row, position] = queue.pop(0) if queue else sampled[row]
                if int(ids[row, position]) in stop and not queue:
                    pending[row] = list(openings[row])
            advance()
            if position + 1 == length:
                break
            out = causal_lm(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
            probabilities = out.logits[:, -1].softmax(-1)
            sampled = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    return ids


def _end_ids(source: Source) -> frozenset[int]:
    end = source.config().get("eos_token_id")
    return frozenset([end] if isinstance(end, int) else end or [])
