"""The worker's functions that measure speed; see ``speed``. Imports llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .loaded import Api, LoadedModel
from .worker import Worker

# llama-bench's sizes of a batch, and of the part of it that is computed at once.
_BATCH, _UBATCH = 2048, 512
# llama-bench draws tokens at random, too: their values do not change the amount of work.
_SEED = 0


def load_timed(worker: Worker, path: str, label: str, options: dict[str, Any]) -> dict[str, Any]:
    """Load a model and make a context of ``options["context"]`` tokens; ``seconds`` is the time of both."""
    start = time.perf_counter()
    model = LoadedModel(path.encode("latin-1"), label)
    params = Api.llama_context_default_params()
    params.n_ctx = options["context"]
    params.n_batch = min(_BATCH, options["context"])
    params.n_ubatch = min(_UBATCH, params.n_batch)
    params.n_threads = params.n_threads_batch = options["threads"]
    model.make_context(params, options["context"])
    return {"handle": worker.add(model), "seconds": time.perf_counter() - start}


def time_prefill(worker: Worker, handle: int, tokens: int) -> float:
    """Seconds for a text of so many tokens, in batches, from an empty memory."""
    model: LoadedModel = worker.objects[handle]
    ids = _tokens(model, tokens)
    model.forget()
    start = time.perf_counter()
    for first in range(0, tokens, _BATCH):
        part = ids[first : first + _BATCH]
        place = np.arange(first, first + len(part))
        model.decode(part, place, np.zeros(len(part), np.int64), place == tokens - 1)
    Api.llama_synchronize(model._context)
    return time.perf_counter() - start


def time_decode(worker: Worker, handle: int, tokens: int) -> float:
    """Seconds for so many tokens, one after the other, from an empty memory."""
    model: LoadedModel = worker.objects[handle]
    ids = _tokens(model, tokens)
    model.forget()
    start = time.perf_counter()
    for place, token in enumerate(ids):
        model.decode([token], np.array([place]), np.zeros(1, np.int64), 1)
        Api.llama_synchronize(model._context)
    return time.perf_counter() - start


def _tokens(model: LoadedModel, count: int) -> list[int]:
    ids: list[int] = np.random.default_rng(_SEED).integers(model.n_vocab, size=count).tolist()
    return ids


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (load_timed, time_prefill, time_decode)
}
"""Functions that the parent may call, by name."""
