"""The worker's functions that score and write continuations; see ``continuations``. Imports llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .loaded import Api, LoadedModel, tokens_at_once
from .worker import Worker

# Logits that are worked on at once.
_CHUNK = 1 << 20


class SharingModel(LoadedModel):
    """A model whose sequences may have tokens in common."""

    def make_context(self, params: Any, tokens: int) -> None:
        super().make_context(params, tokens)
        Api.llama_batch_free(self._batch)
        self._batch = Api.llama_batch_init(self._capacity, 0, int(params.n_seq_max))

    @property
    def shares(self) -> bool:
        """Parts of a sequence can be kept: not so the states of recurrent blocks."""
        return not (Api.llama_model_is_recurrent(self._model) or Api.llama_model_is_hybrid(self._model))

    def move(self, kind: str, sequence: int, target: int, length: int) -> None:
        """Change the memory; see ``prefixes.Move``."""
        memory = Api.llama_get_memory(self._context)
        if kind == "clear":
            Api.llama_memory_clear(memory, True)
        elif kind == "keep":
            Api.llama_memory_seq_keep(memory, sequence)
        elif kind == "copy":
            Api.llama_memory_seq_cp(memory, sequence, target, 0, length)
        elif not Api.llama_memory_seq_rm(memory, sequence, length or -1, -1):
            raise RuntimeError(f"llama.cpp cannot cut a sequence of {self.label}")

    def decode_shared(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        owners: Sequence[Sequence[int]],
        wanted: npt.NDArray[np.bool_],
    ) -> None:
        """Run a batch whose tokens may belong to several sequences each."""
        counts = np.ctypeslib.as_array(self._batch.n_seq_id, (len(tokens),))
        for index, numbers in enumerate(owners):
            counts[index] = len(numbers)
            for place, number in enumerate(numbers):
                self._batch.seq_id[index][place] = number
        self.run_batch(tokens, np.array(positions), wanted)


def load_continued(worker: Worker, path: str, label: str, options: dict[str, Any]) -> dict[str, Any]:
    model = SharingModel(path.encode("latin-1"), label)
    params = Api.llama_context_default_params()
    most = tokens_at_once(model.n_vocab, options["most"])
    params.n_ctx = options["context"] + most
    params.n_batch = params.n_ubatch = most
    params.n_seq_max = options["sequences"] if model.shares else 1
    params.kv_unified = True
    # Beginnings are kept beyond the window of a block.
    params.swa_full = True
    params.n_threads = params.n_threads_batch = options["threads"]
    model.make_context(params, options["context"])
    return {
        "handle": worker.add(model),
        "n_vocab": model.n_vocab,
        "most": most,
        "sequences": int(params.n_seq_max),
        "shares": model.shares,
        "flash_attention": model.flash_attention,
    }


def run_shared(
    worker: Worker,
    handle: int,
    moves: list[list[Any]],
    tokens: list[int],
    positions: list[int],
    owners: list[list[int]],
    targets: list[list[Any]],
) -> list[list[Any]]:
    """Run a step.

    Args:
        worker: the worker.
        handle: handle of the model.
        moves: changes of the memory, each the fields of a ``prefixes.Move``.
        tokens: ids.
        positions: place of each token.
        owners: sequences of each token.
        targets: pairs of the index of a token and the ids that may follow it, by rising index.

    Returns:
        For each pair the most probable token, and the log-probabilities (nats) of the ids.
    """
    model: SharingModel = worker.objects[handle]
    for move in moves:
        model.move(*move)
    wanted = np.zeros(len(tokens), np.bool_)
    wanted[[index for index, _ in targets]] = True
    model.decode_shared(tokens, positions, owners, wanted)
    answers: list[list[Any]] = []
    step = max(1, _CHUNK // model.n_vocab)
    for start in range(0, len(targets), step):
        part = targets[start : start + step]
        logits = model.logits(start, len(part))
        largest = logits.max(axis=1, keepdims=True)
        sums = np.log(np.exp(logits - largest).sum(axis=1, dtype=np.float64)) + largest[:, 0]
        best = logits.argmax(axis=1)
        for row, (_, ids) in enumerate(part):
            answers.append([int(best[row]), [float(logits[row, token] - sums[row]) for token in ids]])
    return answers


FUNCTIONS: dict[str, Callable[..., Any]] = {function.__name__: function for function in (load_continued, run_shared)}
"""Functions that the parent may call, by name."""
