"""Run a GGUF file in llama.cpp and look at its logits, through llama-cpp-python's low-level API."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..gguf.header import learned_positions, read_header
from ..gguf.splits import read_model
from ..gguf.vocabulary_check import check_vocabulary
from .vocabulary import captured_log

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

UBATCH = 512
"""Tokens that llama.cpp computes at once (llama-perplexity's default ``n_ubatch``), unless their logits are large."""

# Logits of the tokens that are computed at once take no more bytes than this, beside those of a whole batch.
_MOST_LOGITS = 1 << 27
_FEWEST_TOKENS = 64


def available_threads() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Engine:
    """One GGUF file loaded on the CPU, with a context for windows of fixed length.

    All settings that change the numbers (flash attention, f16 key-value cache, weight repacking) are
    llama.cpp's defaults, as in llama-perplexity; how many tokens are computed at once does not (Qwen2.5's vocabulary,
    128 and 512 of them: the same perplexity to the last digit). Close it, or use it in a ``with`` block: the native
    memory is not Python's.

    Attributes:
        path: the file.
        label: what messages call it.
        context: tokens in a window.
        parallel: most windows in one call of ``logits``.
        n_vocab: tokens in the vocabulary.
        trained_context: tokens in the longest window that the model was trained on.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        parallel: int = 1,
        threads: int | None = None,
        label: str | None = None,
        exact: bool = False,
        mapped: bool = True,
    ) -> None:
        """Load ``path``.

        With ``exact`` keys and values stay in float32 and attention is computed step by step, so that a float32 model
        is computed in float32 throughout; such a file may be without a tokenizer. Unless ``mapped``, the file is read
        and not mapped: llama.cpp makes a copy of some types in another layout, and the mapped pages of the first copy
        would count as memory too.

        Raises:
            InputError: the file is missing, llama.cpp refuses it (with llama.cpp's own reason), or its learned
                positions are fewer than ``context``.
        """
        import llama_cpp

        self._api = llama_cpp
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self.path = path
        self.label = label or str(path)
        self.context = context
        self.parallel = parallel
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(f"{path} {what}; give the path of a GGUF file.")
        self._load(threads or available_threads(), exact, mapped)
        vocab = self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(vocab))
        self._bos = int(llama_cpp.llama_vocab_bos(vocab)) if llama_cpp.llama_vocab_get_add_bos(vocab) else None
        self.trained_context = int(llama_cpp.llama_model_n_ctx_train(self._model))
        # ggml ends the process when a table of positions is read past its end.
        limit = learned_positions({tensor.name: tensor.shape for tensor in read_model(path).header.tensors})
        if limit is not None and context > limit:
            self.close()
            raise InputError(f"{self.label} has positions for {limit} tokens only; take a --context of that or less.")
        self._prepare_batch()

    def _load(self, threads: int, exact: bool, mapped: bool) -> None:
        api = self._api
        model_params = api.llama_model_default_params()
        model_params.n_gpu_layers = 0
        if not mapped:
            if hasattr(model_params, "load_mode"):
                model_params.load_mode = api.LLAMA_LOAD_MODE_NONE
            else:
                model_params.use_mmap = False
        if not exact:
            self._check_vocabulary()
        with captured_log() as errors:
            self._model = api.llama_model_load_from_file(os.fsencode(self.path), model_params)
        if not self._model:
            # The first line names the cause, the later ones only that loading failed.
            reason = errors[0] if errors else "no reason given"
            raise InputError(f"llama.cpp cannot load {self.label} ({reason}); write the file again or choose another.")
        params = api.llama_context_default_params()
        params.n_ctx = params.n_batch = self.context * self.parallel
        params.n_ubatch = min(self._tokens_at_once(), params.n_batch)
        params.n_seq_max = self.parallel
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        if exact:
            params.type_k = params.type_v = 0  # GGML_TYPE_F32
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with captured_log() as errors:
            self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            reason = errors[0] if errors else "no reason given"
            raise InputError(
                f"llama.cpp cannot run {self.label} on windows of {self.context} tokens ({reason}); "
                "try a smaller context."
            )

    def _tokens_at_once(self) -> int:
        vocabulary = int(self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model)))
        fitting = _MOST_LOGITS // (4 * max(vocabulary, 1))
        # The power of two below.
        return max(_FEWEST_TOKENS, min(1 << fitting.bit_length() >> 1, UBATCH))

    def _check_vocabulary(self) -> None:
        """Refuse a damaged tokenizer, at which llama.cpp would end the process."""
        try:
            header = read_header(self.path)
        except InputError:
            return  # llama.cpp says what it makes of the file
        check_vocabulary(header.get, self.label)

    def _prepare_batch(self) -> None:
        """Fill what is the same in every batch: positions, sequence ids and which outputs are wanted."""
        size = self.context * self.parallel
        self._batch = batch = self._api.llama_batch_init(size, 0, 1)
        as_array = np.ctypeslib.as_array
        position = np.arange(size) % self.context
        as_array(batch.pos, (size,))[:] = position
        as_array(batch.n_seq_id, (size,))[:] = 1
        as_array(batch.logits, (size,))[:] = (position >= self.first) & (position < self.context - 1)
        for index in range(size):
            batch.seq_id[index][0] = index // self.context
        self._tokens = as_array(batch.token, (size,))

    @property
    def first(self) -> int:
        """Position in a window of the first token whose prediction of the next one is scored."""
        return self.context // 2

    @property
    def scored(self) -> int:
        """Predictions scored in one window."""
        return self.context - 1 - self.first

    def tokenize(self, text: str) -> Tokens:
        """Token ids of the whole ``text``, BOS and EOS added by the model's rule (``common_tokenize``)."""
        data = text.encode("utf-8")
        capacity = len(data) + 2
        buffer = (ctypes.c_int32 * capacity)()
        with captured_log():
            count = self._api.llama_tokenize(self._vocab, data, len(data), buffer, capacity, True, False)
        if count < 0:
            raise InputError(f"llama.cpp cannot tokenize the text with {self.label}; give a shorter text.")
        return np.ctypeslib.as_array(buffer)[:count].copy()

    def with_bos(self, windows: Tokens) -> Tokens:
        """Windows ``(n, context)`` as the model reads them: BOS in the first place where its rule wants that."""
        if self._bos is None:
            return windows
        read = windows.copy()
        read[:, 0] = self._bos
        return read

    def logits(self, windows: Tokens) -> Logits:
        """Logits for the second half of each window.

        Args:
            windows: ``(n, context)`` token ids, ``1 <= n <= parallel``; each window is a text of its own,
                whose first token BOS replaces where the model's rule wants BOS before a text.

        Returns:
            A view ``(n, scored, n_vocab)`` of llama.cpp's buffer, valid until the next call or ``close``;
            row ``j`` predicts the token at position ``first + j + 1``.
        """
        count = windows.shape[0]
        self._tokens[: windows.size] = self.with_bos(windows).reshape(-1)
        api, batch = self._api, self._batch
        batch.n_tokens = windows.size
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        with captured_log() as errors:
            status = api.llama_decode(self._context, batch)
        if status != 0:
            reason = errors[0] if errors else f"status {status}"
            raise InputError(f"llama.cpp failed to run {self.label} ({reason}); try a smaller context.")
        pointer = api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (count * self.scored, self.n_vocab)).reshape(
            count, self.scored, self.n_vocab
        )

    def close(self) -> None:
        """Free the native memory; further calls do nothing."""
        api: Any = self._api
        if self._batch is not None:
            api.llama_batch_free(self._batch)
        if self._context:
            api.llama_free(self._context)
        if self._model:
            api.llama_model_free(self._model)
        self._model = self._context = self._batch = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
