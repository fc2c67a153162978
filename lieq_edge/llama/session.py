"""Run a GGUF model in llama.cpp and look at what its matrices receive, for models that transformers does not run."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .library import library
from .vocabulary import captured_log

Floats = npt.NDArray[np.float32]
Consume = Callable[[str, Floats, int], None]
"""Takes the GGUF name of a matrix, what it receives ``(rows, columns)``, and which of the tensor's matrices it is
(the expert; 0 where there is one only). The array is valid during the call."""

_F32 = 0


class NotSeen(InputError):
    """The model runs, but what its matrices receive cannot be seen."""


class _Tensor(ctypes.Structure):
    """``struct ggml_tensor`` of ggml.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    ]


class LlamaSession:
    """A GGUF model in llama.cpp on the CPU. Close it, or use it in a ``with`` block.

    Attributes:
        n_vocab: tokens in the vocabulary.
        errors: of the last call, as llama.cpp words them.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int,
        sequences: int = 1,
        threads: int | None = None,
        observe: tuple[frozenset[str], Consume] | None = None,
    ) -> None:
        """Load the model.

        Args:
            path: of the file, or of the first of several parts.
            context: tokens of a sequence.
            sequences: that run side by side.
            threads: CPU threads; all cores when None.
            observe: names of matrices, and what is called with their inputs.

        Raises:
            InputError: llama.cpp refuses the model.
        """
        import llama_cpp

        self._api: Any = llama_cpp
        self._context: Any = None
        self._batch: Any = None
        self._observer = None if observe is None else _Observer(*observe)
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        with captured_log() as errors:
            self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise InputError(f"llama.cpp cannot load {path} ({_reason(errors)}); choose another model.")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = context * sequences
        # All tokens of a window go through a matrix at once.
        settings.n_batch = settings.n_ubatch = context if sequences == 1 else max(sequences, context)
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = threads or os.cpu_count() or 1
        settings.no_perf = True
        settings.op_offload = settings.offload_kqv = False
        if hasattr(settings, "flash_attn_type"):
            # Its sums depend on the number of threads, and so would what is drawn from the logits.
            settings.flash_attn_type = 0
        if self._observer is not None:
            settings.cb_eval = self._observer.callback
        with captured_log() as errors:
            self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            self.close()
            raise InputError(f"llama.cpp cannot run {path} on {context} tokens ({_reason(errors)}); take fewer.")
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        self._capacity = int(settings.n_batch)
        self._batch = llama_cpp.llama_batch_init(self._capacity, 0, 1)

    def run(self, tokens: npt.NDArray[np.int64]) -> None:
        """Run a text of its own: ids ``(T,)``, at most the context. Observed inputs are of all its tokens."""
        self.forget()
        count = len(tokens)
        self._decode(tokens, np.arange(count), np.zeros(count, np.int64))

    def step(self, tokens: npt.NDArray[np.int64], position: int) -> Floats:
        """Logits ``(n, vocabulary)`` after one more token for each of n sequences, whose place is ``position``."""
        count = len(tokens)
        self._decode(tokens, np.full(count, position), np.arange(count))
        pointer = self._api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (count * self.n_vocab,)).reshape(count, self.n_vocab)

    def forget(self) -> None:
        """Empty the memory of all sequences."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def _decode(
        self, tokens: npt.NDArray[np.int64], places: npt.NDArray[np.int64], sequences: npt.NDArray[np.int64]
    ) -> None:
        count, batch = len(tokens), self._batch
        assert count <= self._capacity
        as_array = np.ctypeslib.as_array
        batch.n_tokens = count
        as_array(batch.token, (count,))[:] = tokens
        as_array(batch.pos, (count,))[:] = places
        as_array(batch.n_seq_id, (count,))[:] = 1
        # Logits of all tokens: of the others llama.cpp skips the last block's second half.
        as_array(batch.logits, (count,))[:] = 1
        for index, sequence in enumerate(sequences):
            batch.seq_id[index][0] = int(sequence)
        with captured_log() as errors:
            status = self._api.llama_decode(self._context, batch)
        if self._observer is not None and self._observer.error is not None:
            raise self._observer.error
        if status != 0:
            raise InputError(f"llama.cpp failed to run the model ({_reason(errors)}); take fewer tokens.")

    def close(self) -> None:
        """Free the native memory; further calls do nothing."""
        if self._batch is not None:
            self._api.llama_batch_free(self._batch)
        if self._context:
            self._api.llama_free(self._context)
        if self._model:
            self._api.llama_model_free(self._model)
        self._model = self._context = self._batch = None

    def __enter__(self) -> LlamaSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Observer:
    """llama.cpp's callback before and after each operation (``cb_eval``)."""

    def __init__(self, names: frozenset[str], consume: Consume) -> None:
        import llama_cpp

        self._names = {name.encode(): name for name in names}
        self._consume = consume
        self._operations = (_operation(b"MUL_MAT"), _operation(b"MUL_MAT_ID"))
        self.error: BaseException | None = None
        self.callback = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(self._call)

    def _call(self, pointer: int, ask: bool, _: object) -> bool:
        # An exception must not go through C.
        try:
            tensor = _Tensor.from_address(pointer)
            name = self._weight(pointer, tensor)
            if ask or name is None:
                return name is not None
            self._see(name, tensor)
            return True
        except BaseException as error:
            self.error = self.error or error
            return False

    def _weight(self, pointer: int, tensor: _Tensor) -> str | None:
        """The observed matrix that ``tensor`` is a product with."""
        _check_layout(pointer, tensor)
        if tensor.op not in self._operations:
            return None
        # A view of a matrix, e.g. of the keys in a fused one, carries a remark behind its name.
        stored = _Tensor.from_address(tensor.src[0]).name.partition(b" (")[0]
        if stored not in self._names or _Tensor.from_address(tensor.src[1]).type != _F32:
            return None
        return self._names[stored]

    def _see(self, name: str, tensor: _Tensor) -> None:
        weight, inputs = (_Tensor.from_address(tensor.src[i]) for i in (0, 1))
        x = _view(inputs, np.dtype(np.float32))
        if tensor.op == self._operations[1]:
            # x (1, T, 1 or experts of a token, columns), experts (T, experts of a token).
            experts = _view(_Tensor.from_address(tensor.src[2]), np.dtype(np.int32))[0, 0]
            for expert in np.unique(experts):
                token, place = np.nonzero(experts == expert)
                self._consume(name, x[0, token, place % x.shape[2]], int(expert))
            return
        matrices = weight.ne[2] * weight.ne[3]
        if matrices == 1:
            self._consume(name, x.reshape(-1, x.shape[-1]), 0)
            return
        repeats = x.shape[1] // weight.ne[2]
        for index in range(x.shape[1]):
            self._consume(name, x[:, index].reshape(-1, x.shape[-1]), index // repeats)


@cache
def _operation(name: bytes) -> int:
    """The number of an operation, which differs between versions of ggml."""
    lib = library()
    lib.ggml_op_name.restype = ctypes.c_char_p
    return next(number for number in range(256) if lib.ggml_op_name(number) == name)


_checked = False


def _check_layout(pointer: int, tensor: _Tensor) -> None:
    """Compare the structure as it is described here with what ggml says of it, once.

    Raises:
        NotSeen: they differ.
    """
    global _checked
    if _checked:
        return
    lib = library()
    lib.ggml_get_name.restype, lib.ggml_get_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    lib.ggml_get_data.restype, lib.ggml_get_data.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    lib.ggml_nelements.restype, lib.ggml_nelements.argtypes = ctypes.c_int64, [ctypes.c_void_p]
    told = (lib.ggml_get_name(pointer), lib.ggml_get_data(pointer), lib.ggml_nelements(pointer))
    if told != (tensor.name, tensor.data, prod(tensor.ne)):
        raise NotSeen(
            "This llama.cpp keeps its tensors in another layout than is known here, so the model cannot be measured "
            "through it; install llama-cpp-python 0.3.36, or pass --imatrix, or --calibration none with --levels 3,4."
        )
    _checked = True


def _view(tensor: _Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The values of a tensor in memory, ``(ne3, ne2, ne1, ne0)``, without a copy."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    size = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + dtype.itemsize
    memory = (ctypes.c_char * size).from_address(tensor.data)
    return np.ndarray(shape, dtype, memory, 0, strides)


def _reason(errors: list[str]) -> str:
    return errors[0] if errors else "no reason given"


@contextlib.contextmanager
def observed(
    path: Path, names: frozenset[str], consume: Consume, *, context: int, threads: int | None
) -> Iterator[LlamaSession]:
    """A session whose runs hand the inputs of the matrices ``names`` to ``consume``."""
    with LlamaSession(path, context=context, threads=threads, observe=(names, consume)) as session:
        yield session
