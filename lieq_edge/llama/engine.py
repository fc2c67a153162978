"""Score windows of tokens with a GGUF file: its logits, as llama.cpp computes them in the process beside this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..system.threads import available_threads
from .child import Loaded
from .limits import load_seconds, run_seconds, text_seconds
from .model_file import check_file, check_positions

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

UBATCH = 512
"""Tokens that llama.cpp computes at once (llama-perplexity's default ``n_ubatch``), unless their logits are large."""

# Logits that are copied at once: few enough for the processor's cache.
_PIECE = 1 << 20


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
        flash_attention: llama.cpp computes attention in one fused step; None where it does not log it.
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

        Args:
            path: the file, or the first of several parts.
            context: tokens in a window.
            parallel: most windows that run side by side.
            threads: CPU threads; all cores when None.
            label: what messages call the file, by default its path.
            exact: keys and values stay in float32 and attention is computed step by step, so that a float32 model is
                computed in float32 throughout; such a file may be without a tokenizer.
            mapped: the file is mapped, and not read: llama.cpp makes a copy of some types in another layout, and the
                mapped pages of the first copy count as memory too.

        Raises:
            InputError: the file is missing, llama.cpp refuses it (with llama.cpp's own reason) or ends on it, or its
                learned positions are fewer than ``context``.
        """
        self.path = path
        self.label = label or str(path)
        self.context = context
        self.parallel = parallel
        check_file(path, self.label, tokenizer=not exact)
        options = {
            "context": context,
            "parallel": parallel,
            "threads": threads or available_threads(),
            "exact": exact,
            "mapped": mapped,
            "ubatch": UBATCH,
        }
        self._loaded = Loaded(path, self.label, "load_engine", options, seconds=load_seconds(path))
        facts = self._loaded.facts
        self.n_vocab: int = facts["n_vocab"]
        self.trained_context: int = facts["trained_context"]
        self.flash_attention: bool | None = facts["flash_attention"]
        self._bos: int | None = facts["bos"]
        self._rows = np.empty((0, self.n_vocab), np.float32)
        try:
            check_positions(path, self.label, context, "take a --context of that or less")
        except InputError:
            self.close()
            raise

    @property
    def first(self) -> int:
        """Position in a window of the first token whose prediction of the next one is scored."""
        return self.context // 2

    @property
    def scored(self) -> int:
        """Predictions scored in one window."""
        return self.context - 1 - self.first

    def tokenize(self, text: str, *, parse_special: bool = False) -> Tokens:
        """Token ids of the whole ``text``, BOS and EOS added by the model's rule (``common_tokenize``).

        Args:
            text: the text.
            parse_special: special tokens in the text become tokens; else they are read as text.
        """
        ids = self._loaded.call("tokenize_whole", text, parse_special, seconds=text_seconds(len(text)))
        return np.array(ids, np.int32)

    def with_bos(self, windows: Tokens) -> Tokens:
        """Windows ``(n, context)`` as the model reads them: BOS in the first place where its rule wants that."""
        if self._bos is None:
            return windows
        read = windows.copy()
        read[:, 0] = self._bos
        return read

    def run(self, windows: Tokens) -> None:
        """Run windows of text; ``pieces`` and ``rows`` give their logits until the next run.

        Args:
            windows: ``(n, context)`` token ids, ``1 <= n <= parallel``; each window is a text of its own,
                whose first token BOS replaces where the model's rule wants BOS before a text.
        """
        tokens = self.with_bos(windows).reshape(-1).tolist()
        seconds = run_seconds(self.path, len(tokens))
        self._loaded.call("run_windows", tokens, self.context, self.first, seconds=seconds)

    def pieces(self, windows: int) -> Iterator[slice]:
        """Rows of the logits of the last run of ``windows`` windows, in pieces that fit the processor's cache."""
        rows, step = windows * self.scored, max(1, _PIECE // self.n_vocab)
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))

    def rows(self, part: slice) -> Logits:
        """Some rows of the logits of the last run, ``(rows, n_vocab)``: valid until the next call.

        Row ``j`` of a window predicts the token at its position ``first + j + 1``; each window has ``scored`` rows.
        """
        count = part.stop - part.start
        if len(self._rows) < count:
            self._rows = np.empty((count, self.n_vocab), np.float32)
        out = self._rows[:count]
        self._fill(out, part.start)
        return out

    def logits(self, windows: Tokens) -> Logits:
        """Run windows and return all their logits for the second half of each, ``(n, scored, n_vocab)``."""
        self.run(windows)
        out = np.empty((len(windows), self.scored, self.n_vocab), np.float32)
        self._fill(out.reshape(-1, self.n_vocab), 0)
        return out

    def _fill(self, out: Logits, start: int) -> None:
        self._loaded.logits(out, start, seconds=run_seconds(self.path, 1))

    def close(self) -> None:
        """Free the native memory; further calls do nothing."""
        self._loaded.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
