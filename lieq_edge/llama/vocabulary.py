"""Thin helpers over llama.cpp's C interface: its log kept quiet, and a model's tokenizer without its weights."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError

PRE_KEY = "tokenizer.ggml.pre"

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_KEPT_LINES = 50
_lines: list[str] = []


@functools.cache
def _collector() -> object:
    """The native callback; the cache keeps it alive as long as llama.cpp may call it."""
    import llama_cpp

    @llama_cpp.llama_log_callback
    def collect(level: int, text: bytes, _user_data: object) -> None:
        line = text.decode("utf-8", errors="replace").strip(" \n=")
        if level == _ERROR_LEVEL and line:
            # "function: message": the function's name tells a user nothing.
            _lines.append(line.split(": ", 1)[-1])
            del _lines[:-_KEPT_LINES]

    return collect


@contextlib.contextmanager
def captured_log() -> Iterator[list[str]]:
    """Silence llama.cpp from here on; the value lists its error messages since, oldest (the cause) first."""
    import llama_cpp

    llama_cpp.llama_log_set(_collector(), ctypes.c_void_p(0))
    _lines.clear()
    yield _lines


class Vocabulary:
    """The tokenizer of a GGUF file, as llama.cpp runs it.

    Attributes:
        n_tokens: tokens in the vocabulary.
        bos_id: the token that starts a text, or None.
        adds_bos: llama.cpp puts BOS before every text.
    """

    def __init__(self, path: Path, *, pre: str | None = None) -> None:
        """Load the vocabulary of ``path``, which may hold no weights.

        Args:
            pre: takes the place of the file's ``tokenizer.ggml.pre``.

        Raises:
            InputError: llama.cpp refuses the file (with its own reason).
        """
        import llama_cpp

        self._api = llama_cpp
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        # An entry without a key ends the table.
        overrides = (llama_cpp.llama_model_kv_override * 2)()
        if pre is not None:
            overrides[0].tag = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_STR
            overrides[0].key = PRE_KEY.encode()
            overrides[0].value.val_str = pre.encode()
            params.kv_overrides = overrides
        with captured_log() as errors:
            model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not model:
            reason = errors[0] if errors else "no reason given"
            raise InputError(f"llama.cpp cannot load the tokenizer of {path} ({reason}); choose another model.")
        weakref.finalize(self, llama_cpp.llama_model_free, model)
        vocab = llama_cpp.llama_model_get_vocab(model)
        assert vocab is not None
        self._vocab = vocab
        self.n_tokens = int(llama_cpp.llama_vocab_n_tokens(vocab))
        bos = int(llama_cpp.llama_vocab_bos(vocab))
        self.bos_id = bos if bos >= 0 else None
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab))

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Token ids of ``text``, nothing added before or after.

        Args:
            text: special tokens in it are read as text, unless ``parse_special``.
        """
        data = text.encode("utf-8")
        # A token is a byte at least; a space may be put before the text.
        capacity = len(data) + 8
        buffer = (ctypes.c_int32 * capacity)()
        with captured_log() as errors:
            count = self._api.llama_tokenize(self._vocab, data, len(data), buffer, capacity, False, parse_special)
        if count < 0:
            raise InputError(f"llama.cpp cannot tokenize a text ({'; '.join(errors) or 'too long'}); shorten it.")
        return buffer[:count]

    def ends(self, token: int) -> bool:
        """Whether llama.cpp ends a generation at ``token``."""
        return bool(self._api.llama_vocab_is_eog(self._vocab, token))

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ``ids``; special tokens are left out unless ``special``, broken UTF-8 becomes U+FFFD.

        Pieces are joined as they are: llama.cpp's own ``llama_detokenize`` drops spaces before punctuation for some
        vocabularies.
        """
        data = b"".join(self._piece(token, special) for token in ids)
        if self._adds_space and data.startswith(b" "):
            data = data[1:]
        return data.decode("utf-8", errors="replace")

    @functools.cached_property
    def _adds_space(self) -> bool:
        """A space is put before the text, as sentencepiece does."""
        return self._piece(self.tokenize("a")[0], False).startswith(b" ")

    def _piece(self, token: int, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._api.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count
