"""Score many files against one reference whose logits are computed once and stored on the disk."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from benchmarks.harness import mean_and_error
from benchmarks.internals import Comparison, Engine, Source, available_threads, compare, stage, write_plain


@dataclass(frozen=True, kw_only=True)
class Score:
    """A file against the reference on the same windows.

    Attributes:
        ppl, ppl_se: perplexity and its standard error.
        kld, kld_se: mean KL divergence in nats a token, and its standard error.
        kld_p99: 99th percentile of the KL divergence.
        top1: share of the tokens that both predict first.
        decode_rate: tokens a second; see ``decode_rate``.
        window_klds: mean KL divergence of each window, for paired differences of files.
    """

    ppl: float
    ppl_se: float
    kld: float
    kld_se: float
    kld_p99: float
    top1: float
    decode_rate: float
    window_klds: list[float] = field(default_factory=list)


class Reference:
    """The logits of a file in full precision, float32, for the second half of each window."""

    def __init__(self, path: Path, text: str, folder: Path, *, context: int, chunks: int) -> None:
        """Run ``path`` over the text, unless its logits are in ``folder`` from an earlier run.

        Args:
            path: GGUF file.
            text: held-out text to score on.
            folder: folder for the logits: 4 bytes x vocabulary x context / 2 x chunks.
            context: tokens of a window.
            chunks: windows.
        """
        store = folder / f"logits-{context}x{chunks}.npy"
        with Engine(path, context=context) as engine:
            tokens = engine.tokenize(text)
            chunks = min(chunks, len(tokens) // context)
            self.windows = tokens[: chunks * context].reshape(chunks, context)
            if not store.exists():
                shape = (chunks, engine.scored, engine.n_vocab)
                part = store.with_suffix(".part")
                logits = np.lib.format.open_memmap(part, "w+", np.float32, shape)
                with stage("Running the reference", chunks) as advance:
                    for index, window in enumerate(self.windows):
                        logits[index] = engine.logits(window[None])[0]
                        advance()
                logits.flush()
                part.rename(store)
        self._logits = np.load(store, mmap_mode="r")

    def score(self, path: Path) -> Score:
        """Score a file."""
        parts = []
        context = self.windows.shape[1]
        with ThreadPoolExecutor(available_threads()) as pool, Engine(path, context=context) as engine:
            for window, theirs in zip(self.windows, self._logits, strict=True):
                logits = engine.logits(window[None])[0]
                parts.append(compare(np.asarray(theirs), logits, window[engine.first + 1 :], pool))
        whole = Comparison(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Comparison)))
        nll, nll_error = mean_and_error(whole.nll)
        kld, kld_error = mean_and_error(whole.kld)
        return Score(
            ppl=float(np.exp(nll)),
            ppl_se=float(np.exp(nll)) * nll_error,
            kld=kld,
            kld_se=kld_error,
            kld_p99=float(np.percentile(whole.kld, 99)),
            top1=float(whole.same_top.mean()),
            decode_rate=decode_rate(path),
            window_klds=[float(f"{part.kld.mean():.6g}") for part in parts],
        )


def reference_of(source: Source, text: str, folder: Path, *, context: int, chunks: int) -> tuple[Path, Reference]:
    """The GGUF file of a model in full precision, which is written to ``folder`` unless there is one, and its logits.

    Args:
        source: the model.
        text, folder, context, chunks: arguments of ``Reference``; the folder need not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = source.gguf_path or folder / "reference.gguf"
    if not path.exists():
        write_plain(path, source, "F32")
    return path, Reference(path, text, folder, context=context, chunks=chunks)


def decode_rate(path: Path, tokens: int = 48) -> float:
    """Tokens a second that llama.cpp writes one after the other, after a prompt of 16."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=128, n_gpu_layers=0, verbose=False)
    try:
        model.eval(list(range(100, 116)))
        start = time.perf_counter()
        for token in range(200, 200 + tokens):
            model.eval([token])
        return tokens / (time.perf_counter() - start)
    finally:
        model.close()
