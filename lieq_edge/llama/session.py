"""Run a GGUF model in llama.cpp and observe the inputs of its matrices, for models that transformers does not run.

The callback of llama.cpp's graph runs in the worker, as everything of llama.cpp does, and hands the inputs over in
shared memory: that costs a few percent of a run, and a graph that fails an assertion does not end this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..system.threads import available_threads
from .child import Loaded
from .layout import NotSeen, check_layout
from .limits import load_seconds, run_seconds

__all__ = ["Consume", "Floats", "LlamaSession", "NotSeen", "observed"]

Floats = npt.NDArray[np.float32]
Consume = Callable[[str, Floats, int], None]
"""Takes the GGUF name of a matrix, its inputs ``(rows, columns)``, and which of the tensor's matrices it is
(the expert; 0 where there is one only). The array is valid during the call, in which llama.cpp cannot be used."""


class LlamaSession:
    """A GGUF model in llama.cpp on the CPU. Close it, or use it in a ``with`` block.

    Attributes:
        n_vocab: tokens in the vocabulary.
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
            path: the file, or the first of several parts.
            context: tokens of a sequence.
            sequences: sequences that run side by side.
            threads: CPU threads; all cores when None.
            observe: names of matrices, and the function that is called with their inputs.

        Raises:
            InputError: llama.cpp refuses the model, or ends on it.
            NotSeen: inputs are to be observed, and this llama.cpp has another layout of tensors than is known here.
        """
        names: frozenset[str] = frozenset()
        self._consume: Consume | None = None
        if observe is not None:
            names, self._consume = observe
            check_layout()
        options = {
            "context": context,
            "sequences": sequences,
            "threads": threads or available_threads(),
            "observe": sorted(names),
        }
        self._loaded = Loaded(path, str(path), "load_session", options, seconds=load_seconds(path))
        self.n_vocab: int = self._loaded.facts["n_vocab"]

    def run(self, tokens: npt.NDArray[np.int64]) -> None:
        """Run a text of its own: ids ``(T,)``, at most the context. Observed inputs are of all its tokens."""
        inputs = _Inputs(self._loaded, self._consume) if self._consume is not None else None
        self._loaded.call("run_text", tokens.tolist(), seconds=self._seconds(len(tokens)), on_event=inputs)

    def step(self, tokens: npt.NDArray[np.int64], position: int) -> Floats:
        """Logits ``(n, vocabulary)`` after one more token for each of n sequences, whose place is ``position``."""
        seconds = self._seconds(len(tokens))
        self._loaded.call("step", tokens.tolist(), position, seconds=seconds)
        out = np.empty((len(tokens), self.n_vocab), np.float32)
        self._loaded.logits(out, seconds=seconds)
        return out

    def forget(self) -> None:
        """Empty the memory of all sequences."""
        self._loaded.call("forget", seconds=self._seconds(1))

    def _seconds(self, tokens: int) -> float:
        return run_seconds(self._loaded.path, tokens)

    def close(self) -> None:
        """Free the native memory; further calls do nothing."""
        self._loaded.close()

    def __enter__(self) -> LlamaSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Inputs:
    """Hands inputs to ``consume`` as they come; those that do not fit the shared memory are put together first."""

    def __init__(self, loaded: Loaded, consume: Consume) -> None:
        self._loaded = loaded
        self._consume = consume
        self._whole: Floats = np.empty((0, 0), np.float32)

    def __call__(self, kind: str, name: str, shape: list[int], matrix: int, start: int, rows: int) -> None:
        part: Any = self._loaded.shared_array((rows, shape[1]))
        if rows == shape[0]:
            self._consume(name, part, matrix)
            return
        if start == 0:
            self._whole = np.empty(shape, np.float32)
        self._whole[start : start + rows] = part
        if start + rows == shape[0]:
            self._consume(name, self._whole, matrix)


@contextlib.contextmanager
def observed(
    path: Path, names: frozenset[str], consume: Consume, *, context: int, threads: int | None
) -> Iterator[LlamaSession]:
    """A session whose runs hand the inputs of the matrices ``names`` to ``consume``."""
    with LlamaSession(path, context=context, threads=threads, observe=(names, consume)) as session:
        yield session
