"""Perplexity by llama.cpp's protocol, and the distance from a reference file, both in one pass over the text.

The protocol is that of llama-perplexity (llama.cpp, tools/perplexity): the text is cut into windows of
``context`` tokens, each a text of its own; its first token is replaced by BOS where the model's rule wants
one; positions ``context // 2 .. context - 2`` predict their next token. Standard errors are those of
llama-perplexity too: tokens count as independent, which they are not inside a window, so they are a bit small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..llama.engine import UBATCH, Engine, Logits, Tokens
from ..store import NO_CACHE, Cache
from ..system.progress import log, stage
from ..system.threads import available_threads
from ..texts.info import TextInfo
from .scores import Comparison, Scores, compare, negative_log_likelihood

if TYPE_CHECKING:
    from ..sources.base import Source

MIN_CONTEXT = 8

# Larger files are mapped, so that the system can take their pages out of memory.
_READ_BYTES = 1 << 32

Base = Callable[[slice], Iterable[tuple[slice, Logits]]]
"""A reference: its logits for some of the windows, in pieces of which each names its rows."""


@dataclass(frozen=True)
class Validation:
    """How a file predicts a text, and how far it is from a reference.

    Attributes:
        ppl: perplexity, exp of the mean negative log-likelihood (nats) of the scored tokens.
        ppl_se: its standard error.
        tokens: scored tokens.
        file_bytes: size of the file.
        context: tokens in a window.
        chunks: windows.
        text: the text's name, SHA-256 and the tokens used of it.
        reference_ppl: perplexity of the reference; this and all below are None without a reference.
        kld: mean KL(reference || file) of a token, nats.
        kld_se: its standard error.
        kld_p50: median over tokens.
        kld_p99: 99th percentile over tokens.
        kld_p999: 99.9th percentile over tokens; of fewer than 1,000 tokens it says little.
        top1: share of tokens where both rank the same token first.
        flash_attention: llama.cpp computed the file's attention in one fused step, as its defaults decide; None where
            it does not log that.
    """

    ppl: float
    ppl_se: float
    tokens: int
    file_bytes: int
    context: int
    chunks: int
    text: TextInfo
    reference_ppl: float | None = None
    kld: float | None = None
    kld_se: float | None = None
    kld_p50: float | None = None
    kld_p99: float | None = None
    kld_p999: float | None = None
    top1: float | None = None
    flash_attention: bool | None = None


def validate(
    path: Path,
    text: str,
    *,
    text_name: str,
    context: int = 512,
    chunks: int | None = None,
    reference: Path | Source | None = None,
    reference_name: str | None = None,
    cache: Cache = NO_CACHE,
    threads: int | None = None,
) -> Validation:
    """Measure the GGUF file ``path`` on ``text``.

    Args:
        path: the file to measure.
        text: the evaluation text.
        text_name: name of the text in the report.
        context: tokens in a window.
        chunks: most windows to use; all when None.
        reference: a GGUF file, run in lock-step, window by window; or a model that transformers runs; or None.
        reference_name: name of the reference file in messages, by default its path.
        cache: cache of the reference model's results.
        threads: CPU threads; all cores when None.

    Raises:
        InputError: a file cannot be loaded, the two differ in their tokenizers, the text is shorter than one
            window, or a model's output is not a number.
    """
    if context < MIN_CONTEXT:
        raise InputError(f"A context of {context} tokens is too short; give at least {MIN_CONTEXT}.")
    if chunks is not None and chunks < 1:
        raise InputError(f"Cannot score {chunks} windows; ask for at least 1.")
    threads = threads or available_threads()
    # Short windows share a batch; longer batches than llama.cpp computes at once would only cost memory.
    parallel = max(1, UBATCH // context)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        mapped = not path.is_file() or path.stat().st_size > _READ_BYTES

        def load() -> Engine:
            return stack.enter_context(Engine(path, context=context, parallel=parallel, threads=threads, mapped=mapped))

        engine = load()
        tokens = engine.tokenize(text)
        windows = _cut(tokens, context, chunks, text_name)
        base: Base | None = None
        label = ""
        if isinstance(reference, Path):
            other = stack.enter_context(
                Engine(reference, context=context, parallel=parallel, threads=threads, label=reference_name)
            )
            label = other.label
            _check_same(engine, tokens, label, other.n_vocab, other.tokenize(text))

            def base(part: slice) -> Iterable[tuple[slice, Logits]]:
                other.run(windows[part])
                return ((rows, other.rows(rows)) for rows in other.pieces(len(windows[part])))

        elif reference is not None:
            from .reference import StreamedReference  # PyTorch

            read, scored = engine.with_bos(windows), slice(engine.first, engine.first + engine.scored)
            # The file makes room while the original runs.
            engine.close()
            streamed = StreamedReference(reference, threads=threads)
            label = streamed.label
            reference_tokens = np.array(reference.tokenize(text, add_bos=reference.adds_bos), tokens.dtype)
            _check_same(engine, tokens, label, streamed.n_vocab, reference_tokens)
            streamed.run(read, scored, cache)
            engine = load()
            base = streamed.logits
        if context > engine.trained_context:
            log(f"{path.name} was trained on {engine.trained_context} tokens; windows of {context} are longer.")
        scores = _score(engine, base, label, windows, pool)
    mean, error = mean_and_error(scores.nll)
    validation = Validation(
        ppl=float(np.exp(mean)),
        ppl_se=float(np.exp(mean)) * error,
        tokens=len(scores.nll),
        file_bytes=path.stat().st_size,
        context=context,
        chunks=len(windows),
        text=TextInfo(text_name, hashlib.sha256(text.encode("utf-8")).hexdigest(), int(windows.size)),
        flash_attention=engine.flash_attention,
    )
    return validation if reference is None else _with_distance(validation, scores)


def _with_distance(validation: Validation, scores: Comparison) -> Validation:
    """The record with the distance from the reference."""
    kld, kld_se = mean_and_error(scores.kld)
    median, p99, p999 = np.percentile(scores.kld, (50, 99, 99.9)).tolist()
    return replace(
        validation,
        reference_ppl=float(np.exp(scores.reference_nll.mean())),
        kld=kld,
        kld_se=kld_se,
        kld_p50=median,
        kld_p99=p99,
        kld_p999=p999,
        top1=float(scores.same_top.mean()),
    )


def mean_and_error(values: Scores) -> tuple[float, float]:
    """Mean and its standard error, the values taken as independent (llama-perplexity's formula)."""
    return float(values.mean()), float(values.std() / np.sqrt(max(len(values) - 1, 1)))


def _cut(tokens: Tokens, context: int, chunks: int | None, text_name: str) -> Tokens:
    """The windows ``(n, context)``; what is left at the end is not used."""
    count = len(tokens) // context
    if count == 0:
        raise InputError(
            f"The text {text_name} has {len(tokens)} tokens, fewer than one window of {context}; "
            "give a longer text or a smaller context."
        )
    count = min(count, chunks or count)
    return tokens[: count * context].reshape(count, context)


def _check_same(engine: Engine, tokens: Tokens, label: str, n_vocab: int, their_tokens: Tokens) -> None:
    """Refuse a reference called ``label`` whose tokenizer differs from the file's."""
    if n_vocab != engine.n_vocab:
        raise InputError(
            f"{label} has {n_vocab} tokens in its vocabulary and {engine.label} has {engine.n_vocab}; "
            "give a reference of the same model."
        )
    if not np.array_equal(their_tokens, tokens):
        raise InputError(
            f"{label} and {engine.label} cut the text into different tokens; give a reference with the same tokenizer."
        )


def _alone(nll: Scores) -> Comparison:
    """Scores of a model without a reference."""
    none = np.empty(0)
    return Comparison(nll, none, none, none.astype(np.bool_))


def _score(engine: Engine, base: Base | None, label: str, windows: Tokens, pool: Executor) -> Comparison:
    """Score all windows; without ``base``, the logits of a reference called ``label``, its part is empty."""
    parts: list[Comparison] = []
    with stage("validate", len(windows)) as step:
        for start in range(0, len(windows), engine.parallel):
            part = slice(start, min(start + engine.parallel, len(windows)))
            batch = windows[part]
            targets = batch[:, engine.first + 1 :].reshape(-1)
            engine.run(batch)
            if base is None:
                comparisons = [
                    _alone(negative_log_likelihood(engine.rows(rows), targets[rows], pool))
                    for rows in engine.pieces(len(batch))
                ]
            else:
                comparisons = [compare(theirs, engine.rows(rows), targets[rows], pool) for rows, theirs in base(part)]
            for name, model in (("nll", engine.label), ("reference_nll", label)):
                if not all(np.isfinite(getattr(comparison, name)).all() for comparison in comparisons):
                    raise InputError(f"{model} gives outputs that are not numbers; write the file again.")
            parts += comparisons
            for _ in batch:
                step()
    return Comparison(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Comparison)))
