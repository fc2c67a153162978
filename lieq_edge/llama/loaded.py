"""Models and vocabularies that llama.cpp has loaded, and the worker's functions for them. Imports llama.cpp."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .log import captured_log
from .observer import Observer
from .worker import Worker

PRE_KEY = "tokenizer.ggml.pre"

Api: Any = llama_cpp


class Words:
    """What llama.cpp does with the vocabulary of something loaded.

    Attributes:
        pointer: the vocabulary.
        n_tokens: tokens in it.
        bos_id: the token that starts a text, or None.
        adds_bos: llama.cpp puts BOS before every text.
    """

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        self.n_tokens = int(Api.llama_vocab_n_tokens(pointer))
        bos = int(Api.llama_vocab_bos(pointer))
        self.bos_id = bos if bos >= 0 else None
        self.adds_bos = bool(Api.llama_vocab_get_add_bos(pointer))

    def tokenize(self, text: str, parse_special: bool) -> list[int]:
        return _tokenize(self.pointer, text, add_special=False, parse_special=parse_special)

    def ends(self, token: int) -> bool:
        return bool(Api.llama_vocab_is_eog(self.pointer, token))

    def detokenize(self, ids: Sequence[int], special: bool) -> str:
        data = b"".join(self.piece(token, special) for token in ids)
        if self.adds_space and data.startswith(b" "):
            data = data[1:]
        return data.decode("utf-8", errors="replace")

    @functools.cached_property
    def adds_space(self) -> bool:
        """A space is put before the text, as sentencepiece does."""
        ids = self.tokenize("a", False)
        return bool(ids) and self.piece(ids[0], False).startswith(b" ")

    def piece(self, token: int, special: bool) -> bytes:
        """Bytes of a token; none for a special one unless ``special``."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = Api.llama_token_to_piece(self.pointer, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count


class LoadedVocabulary(Words):
    """The tokenizer of a GGUF file; see ``vocabulary.Vocabulary``."""

    def __init__(self, path: bytes, label: str, pre: str | None = None) -> None:
        params = Api.llama_model_default_params()
        params.vocab_only = True
        # An entry without a key ends the table.
        overrides = (Api.llama_model_kv_override * 2)()
        if pre is not None:
            overrides[0].tag = Api.LLAMA_KV_OVERRIDE_TYPE_STR
            overrides[0].key = PRE_KEY.encode()
            overrides[0].value.val_str = pre.encode()
            params.kv_overrides = overrides
        with captured_log() as log:
            self._model = Api.llama_model_load_from_file(path, params)
        if not self._model:
            raise InputError(f"llama.cpp cannot load the tokenizer of {label} ({log.reason()}); choose another model.")
        super().__init__(Api.llama_model_get_vocab(self._model))

    def close(self) -> None:
        Api.llama_model_free(self._model)


class LoadedModel:
    """A model with a context and a batch.

    Attributes:
        n_vocab: tokens in the vocabulary.
        flash_attention: attention is computed in one fused step; None where llama.cpp did not log it.
        observer: observer of its graph, or None.
        buffers: bytes of llama.cpp's buffers by purpose, as ``log.Log.buffers``.
    """

    def __init__(
        self, path: bytes, label: str, *, mapped: bool = True, repacked: bool = True, simulated: bool = False
    ) -> None:
        """Load a file.

        Args:
            path: the file, or the first of several parts.
            label: what messages call it.
            mapped: the file is mapped, and not read.
            repacked: types for which this processor has kernels get another layout.
            simulated: no weights are read, and nothing is allocated: ``buffers`` says what would be.
        """
        self._context: Any = None
        self._batch: Any = None
        self.label = label
        self.flash_attention: bool | None = None
        self.observer: Observer | None = None
        params = Api.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = repacked
        params.no_alloc = simulated
        if simulated or not mapped:
            if hasattr(params, "load_mode"):
                params.load_mode = Api.LLAMA_LOAD_MODE_NONE
            else:
                params.use_mmap = False
        with captured_log() as log:
            self._model: Any = Api.llama_model_load_from_file(path, params)
        if not self._model:
            raise InputError(f"llama.cpp cannot load {label} ({log.reason()}); write the file again or choose another.")
        self.buffers = log.buffers
        self.vocab = Api.llama_model_get_vocab(self._model)
        self.n_vocab = int(Api.llama_vocab_n_tokens(self.vocab))

    def tokenize_whole(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Ids of a whole text: BOS and EOS are around it where the model has them."""
        return _tokenize(self.vocab, text, add_special=True, parse_special=parse_special)

    def make_context(self, params: Any, tokens: int) -> None:
        """Make the context, and a batch of as many tokens as it computes at once.

        Args:
            params: llama.cpp's parameters of the context.
            tokens: in a window, for the message.
        """
        params.no_perf = True
        with captured_log() as log:
            self._context = Api.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise InputError(
                f"llama.cpp cannot run {self.label} on windows of {tokens} tokens ({log.reason()}); "
                "try a smaller context."
            )
        self.flash_attention = log.flash_attention
        self.buffers = {**self.buffers, **log.buffers}
        self._capacity = int(params.n_batch)
        self._batch = Api.llama_batch_init(self._capacity, 0, 1)

    def decode(
        self,
        tokens: Sequence[int],
        positions: npt.NDArray[Any],
        sequences: npt.NDArray[Any],
        wanted: npt.NDArray[Any] | int,
    ) -> None:
        """Run a batch: ids, places and sequence numbers of its tokens, and which logits are wanted."""
        np.ctypeslib.as_array(self._batch.n_seq_id, (len(tokens),))[:] = 1
        for index, sequence in enumerate(sequences.tolist()):
            self._batch.seq_id[index][0] = sequence
        self.run_batch(tokens, positions, wanted)

    def run_batch(self, tokens: Sequence[int], positions: npt.NDArray[Any], wanted: npt.NDArray[Any] | int) -> None:
        """``decode`` where the batch has the sequence numbers already."""
        count, batch = len(tokens), self._batch
        assert count <= self._capacity
        as_array = np.ctypeslib.as_array
        batch.n_tokens = count
        as_array(batch.token, (count,))[:] = tokens
        as_array(batch.pos, (count,))[:] = positions
        as_array(batch.logits, (count,))[:] = wanted
        with captured_log() as log:
            status = Api.llama_decode(self._context, batch)
        if status != 0:
            raise InputError(
                f"llama.cpp failed to run {self.label} ({log.reason(f'status {status}')}); try a smaller context."
            )

    def forget(self) -> None:
        """Empty the memory of all sequences."""
        Api.llama_memory_clear(Api.llama_get_memory(self._context), True)

    def logits(self, start: int, rows: int) -> npt.NDArray[np.float32]:
        """Some rows of the last batch's logits, ``(rows, n_vocab)``: a view of llama.cpp's buffer."""
        pointer = Api.llama_get_logits(self._context)
        whole = np.ctypeslib.as_array(pointer, ((start + rows) * self.n_vocab,))
        return whole.reshape(start + rows, self.n_vocab)[start:]

    def close_context(self) -> None:
        """Free the context and its batch; another context can be made."""
        if self._batch is not None:
            Api.llama_batch_free(self._batch)
        if self._context:
            Api.llama_free(self._context)
        self._context = self._batch = None

    def close(self) -> None:
        self.close_context()
        if self._model:
            Api.llama_model_free(self._model)
        self._model = None


def _tokenize(vocab: Any, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
    data = text.encode("utf-8")
    # A token is a byte at least; a space may be put before the text, and BOS and EOS around it.
    capacity = len(data) + 8
    buffer = (ctypes.c_int32 * capacity)()
    with captured_log() as log:
        count = Api.llama_tokenize(vocab, data, len(data), buffer, capacity, add_special, parse_special)
    if count < 0:
        raise InputError(f"llama.cpp cannot tokenize a text ({'; '.join(log.errors) or 'too long'}); shorten it.")
    return buffer[:count]


def load_vocabulary(worker: Worker, path: str, label: str, pre: str | None) -> dict[str, Any]:
    vocabulary = LoadedVocabulary(path.encode("latin-1"), label, pre)
    return {
        "handle": worker.add(vocabulary),
        "n_tokens": vocabulary.n_tokens,
        "bos_id": vocabulary.bos_id,
        "adds_bos": vocabulary.adds_bos,
    }


def tokenize(worker: Worker, handle: int, texts: list[str], parse_special: bool) -> list[list[int]]:
    vocabulary = worker.objects[handle]
    return [vocabulary.tokenize(text, parse_special) for text in texts]


def ends(worker: Worker, handle: int) -> list[int]:
    """All tokens at which llama.cpp ends a generation."""
    words = worker.objects[handle]
    return [token for token in range(words.n_tokens) if words.ends(token)]


def detokenize(worker: Worker, handle: int, rows: list[list[int]], special: bool) -> list[str]:
    vocabulary = worker.objects[handle]
    return [vocabulary.detokenize(ids, special) for ids in rows]


# Logits of the tokens that are computed at once take no more bytes than this, beside those of a whole batch.
_MOST_LOGITS = 1 << 27
_FEWEST_TOKENS = 64


def tokens_at_once(n_vocab: int, most: int) -> int:
    """Tokens to compute at once, at most ``most``: fewer where their logits are large."""
    fitting = _MOST_LOGITS // (4 * max(n_vocab, 1))
    # The power of two below.
    return max(_FEWEST_TOKENS, min(1 << fitting.bit_length() >> 1, most))


def load_engine(worker: Worker, path: str, label: str, options: dict[str, Any]) -> dict[str, Any]:
    model = LoadedModel(path.encode("latin-1"), label, mapped=options["mapped"])
    context, parallel = options["context"], options["parallel"]
    params = Api.llama_context_default_params()
    params.n_ctx = params.n_batch = context * parallel
    params.n_ubatch = min(tokens_at_once(model.n_vocab, options["ubatch"]), params.n_batch)
    params.n_seq_max = parallel
    params.n_threads = params.n_threads_batch = options["threads"]
    if options["exact"]:
        params.type_k = params.type_v = 0  # GGML_TYPE_F32
        params.flash_attn_type = Api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    model.make_context(params, context)
    return {
        "handle": worker.add(model),
        "n_vocab": model.n_vocab,
        "bos": int(Api.llama_vocab_bos(model.vocab)) if Api.llama_vocab_get_add_bos(model.vocab) else None,
        "trained_context": int(Api.llama_model_n_ctx_train(model._model)),
        "flash_attention": False if options["exact"] else model.flash_attention,
    }


def tokenize_whole(worker: Worker, handle: int, text: str, parse_special: bool) -> list[int]:
    return worker.objects[handle].tokenize_whole(text, parse_special=parse_special)


def run_windows(worker: Worker, handle: int, tokens: list[int], context: int, first: int) -> None:
    """Run windows side by side; logits are computed from position ``first`` to the last but one."""
    model = worker.objects[handle]
    place = np.arange(len(tokens))
    position = place % context
    model.forget()
    model.decode(tokens, position, place // context, (position >= first) & (position < context - 1))


def give_logits(worker: Worker, handle: int, start: int, rows: int) -> None:
    """Put some rows of the last logits into the shared memory."""
    model = worker.objects[handle]
    worker.memory.array((rows, model.n_vocab), np.float32)[:] = model.logits(start, rows)


def load_session(worker: Worker, path: str, label: str, options: dict[str, Any]) -> dict[str, Any]:
    context, sequences = options["context"], options["sequences"]
    model = LoadedModel(path.encode("latin-1"), label)
    params = Api.llama_context_default_params()
    params.n_ctx = context * sequences
    # All tokens of a window go through a matrix at once.
    params.n_batch = params.n_ubatch = context if sequences == 1 else max(sequences, context)
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = options["threads"]
    params.op_offload = params.offload_kqv = False
    if hasattr(params, "flash_attn_type"):
        # Its sums depend on the number of threads, and so would the text that is drawn from the logits.
        params.flash_attn_type = Api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    observer = None
    if options["observe"]:
        observer = Observer(worker, options["observe"])
        params.cb_eval = observer.callback
    model.make_context(params, context)
    model.observer = observer
    return {"handle": worker.add(model), "n_vocab": model.n_vocab}


def run_text(worker: Worker, handle: int, tokens: list[int]) -> None:
    """Run a text of its own through a session; observed inputs are reported as events."""
    model = worker.objects[handle]
    model.forget()
    # Logits of all tokens: of the others llama.cpp skips the second half of the last block.
    try:
        model.decode(tokens, np.arange(len(tokens)), np.zeros(len(tokens), np.int64), 1)
    finally:
        if model.observer is not None:
            model.observer.raise_error()


def step(worker: Worker, handle: int, tokens: list[int], position: int) -> None:
    """One more token for each of some sequences; their logits are put into the shared memory."""
    model = worker.objects[handle]
    count = len(tokens)
    model.decode(tokens, np.full(count, position), np.arange(count), 1)


def forget(worker: Worker, handle: int) -> None:
    worker.objects[handle].forget()


def generate(worker: Worker, path: str, prompt: str | list[dict[str, str]], options: dict[str, Any]) -> str:
    """Text after a prompt, through ``llama_cpp.Llama``; see ``reload.generate``."""
    label, sampling = options["label"], options["sampling"]
    name = os.fsdecode(path.encode("latin-1"))
    with captured_log() as log:
        try:
            model = Api.Llama(name, n_gpu_layers=0, verbose=False, **options["model"])
        except ValueError as error:
            reason = log.reason(str(error))
            raise InputError(f"llama.cpp cannot load {label} ({reason}); write the file again.") from error
        try:
            if isinstance(prompt, str):
                return str(model.create_completion(prompt, **sampling)["choices"][0]["text"])
            answer = model.create_chat_completion(prompt, **sampling)
            return str(answer["choices"][0]["message"]["content"])
        except ValueError as error:
            raise InputError(f"{label} cannot answer the prompt ({error}); give a shorter one.") from error
        finally:
            model.close()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        load_vocabulary,
        tokenize,
        detokenize,
        ends,
        load_engine,
        tokenize_whole,
        run_windows,
        give_logits,
        load_session,
        run_text,
        step,
        forget,
        generate,
    )
}
"""Functions that the parent may call, by name."""
