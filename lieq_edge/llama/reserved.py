"""The worker's functions that tell how much memory llama.cpp takes; see ``memory``. Imports llama.cpp."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from .loaded import Api, LoadedModel
from .worker import Worker

# llama-server's sizes of a batch, and of the part of it that is computed at once.
_BATCH, _UBATCH = 2048, 512


def simulate(worker: Worker, path: str, label: str, requests: list[tuple[int, int]]) -> list[dict[str, int]]:
    """Sizes of the buffers of contexts, of which none is allocated and no weight is read.

    Args:
        worker: the worker.
        path: the file; its header counts.
        label: what messages call it.
        requests: tokens, and value of ``enum ggml_type`` of keys and values, of each context.
    """
    found = []
    with contextlib.closing(LoadedModel(path.encode("latin-1"), label, simulated=True)) as model:
        for tokens, kind in requests:
            model.make_context(_params(tokens, kind), tokens)
            found.append(model.buffers)
            model.close_context()
    return found


def occupy(worker: Worker, path: str, label: str, options: dict[str, Any]) -> dict[str, Any]:
    """Load a model for real, run a prompt that fills its context, and give the sizes of its buffers.

    ``resident`` is what the process grew by, mapped pages of the file included.

    Args:
        worker: the worker.
        path: the file.
        label: what messages call it.
        options: ``context``, ``kind`` of keys and values, ``threads``, ``mapped`` and ``repacked``.
    """
    before = psutil.Process().memory_info().rss
    model = LoadedModel(path.encode("latin-1"), label, mapped=options["mapped"], repacked=options["repacked"])
    with contextlib.closing(model):
        tokens = options["context"]
        params = _params(tokens, options["kind"])
        params.n_threads = params.n_threads_batch = options["threads"]
        model.make_context(params, tokens)
        ids = np.random.default_rng(0).integers(model.n_vocab, size=tokens).tolist()
        for first in range(0, tokens, _BATCH):
            part = ids[first : first + _BATCH]
            place = np.arange(first, first + len(part))
            model.decode(part, place, np.zeros(len(part), np.int64), place == tokens - 1)
        Api.llama_synchronize(model._context)
        return {"buffers": model.buffers, "resident": psutil.Process().memory_info().rss - before}


def system_info(worker: Worker) -> str:
    """llama.cpp's line about the processor's instructions and its own options."""
    return str(Api.llama_print_system_info().decode("ascii", "replace"))


def _params(tokens: int, kind: int) -> Any:
    """llama-server's parameters with one slot: logits of one token at a time."""
    params = Api.llama_context_default_params()
    params.n_ctx = tokens
    params.n_batch, params.n_ubatch = _BATCH, _UBATCH
    params.n_seq_max = params.n_outputs_max = 1
    params.type_k = params.type_v = kind
    params.swa_full = False  # the library's own default stores all tokens of windowed blocks
    return params


FUNCTIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in (simulate, occupy, system_info)}
"""Functions that the parent may call, by name."""
