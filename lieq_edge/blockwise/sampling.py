"""Sample text from a model, many sequences in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..sources.base import Source
from ..system.progress import stage
from .model import BlockModel
from .sequences import Writer, sample

# Bytes of keys and values of all sequences that are sampled in parallel.
_CACHE_BYTES = 400_000_000


def generate(
    model: BlockModel, openings: list[list[int]], length: int, *, seed: int = 0, stop: frozenset[int] = frozenset()
) -> Tensor:
    """Sample from the model's own distribution, many sequences in parallel.

    Args:
        model: the model; all its blocks are in memory meanwhile.
        openings: at least one token each; after an end of text a sequence starts anew with its opening.
        length: tokens of every sequence.
        seed: seed of the sampling.
        stop: ids that end a text.

    Returns:
        Token ids, int64 ``(len(openings), length)``.
    """
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sequence_bytes = 2 * 4 * model.n_blocks * heads * width * length
    groups = min(len(openings), -(-len(openings) * sequence_bytes // _CACHE_BYTES))
    size = -(-len(openings) // groups)
    generator = torch.Generator().manual_seed(seed)
    starts = range(0, len(openings), size)
    with (
        torch.no_grad(),
        model.whole() as causal_lm,
        stage("Writing calibration text", length * len(starts)) as advance,
    ):
        parts = []
        for first in starts:
            cache = DynamicCache()
            cache.layers = [_ReservedLayer(length) for _ in range(model.n_blocks)]
            writer = Writer(openings[first : first + size], length, stop)
            for position in range(length):
                column = writer.put(position)
                if position + 1 < length:
                    logits = causal_lm(column, past_key_values=cache, use_cache=True).logits[:, -1]
                    writer.sampled = sample(logits, generator)
                advance()
            parts.append(writer.ids)
    return torch.cat(parts)


def likeliest(
    model: BlockModel, prompts: list[list[int]], length: int, ends: Callable[[int], bool]
) -> Iterator[list[int]]:
    """Continue each prompt with the likeliest token each time.

    Args:
        model: the model; all its blocks are in memory meanwhile.
        prompts: at least one token each.
        length: most tokens of a continuation.
        ends: whether a token ends the text; it is left out.

    Returns:
        Token ids of each continuation, one after the other.
    """
    with torch.no_grad(), model.whole() as causal_lm:
        for prompt in prompts:
            written: list[int] = []
            # The model makes the cache itself, because what it stores depends on the family.
            cache = None
            unread = prompt
            while len(written) < length:
                out = causal_lm(torch.tensor([unread]), past_key_values=cache, use_cache=True)
                cache, token = out.past_key_values, int(out.logits[0, -1].argmax())
                if ends(token):
                    break
                written.append(token)
                unread = [token]
            yield written


def sample_text(
    source: Source,
    openings: list[list[int]],
    length: int,
    *,
    seed: int,
    stop: frozenset[int],
    threads: int | None = None,
) -> npt.NDArray[np.int64]:
    """``generate`` from the model of ``source``, int64 ``(len(openings), length)``."""
    ids: npt.NDArray[np.int64] = generate(
        BlockModel(source, threads=threads), openings, length, seed=seed, stop=stop
    ).numpy()
    return ids


class _ReservedLayer(DynamicLayer):
    """Keys and values of a block in memory that is reserved at once.

    transformers' own layer copies everything for each token, which takes half of the time.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self._store: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self._store is None:
            self.lazy_initialization(key_states, value_states)
            n, heads, width = key_states.shape[0], key_states.shape[1], key_states.shape[3]
            self._store = (
                key_states.new_empty(n, heads, self._length, width),
                value_states.new_empty(n, heads, self._length, value_states.shape[-1]),
            )
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        keys, values = self._store
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values
