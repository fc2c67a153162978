"""Perplexity by llama.cpp's protocol, and the distance from a reference file, both in one pass over the text.

The protocol is that of llama-perplexity (llama.cpp, tools/perplexity): the text is cut into windows of
``context`` tokens, each a text of its own; its first token is replaced by BOS where the model's rule wants
one; positions ``context // 2 .. context - 2`` predict their next token. Standard errors are those of
llama-perplexity too: tokens count as independent, which they are not inside a window, so they are a bit small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..gguf.splits import stored_bytes
from ..llama.engine import Engine, Logits, Tokens
from ..llama.model_file import check_file
from ..store import NO_CACHE, Cache
from ..system.memory import most_beside
from ..system.progress import log, stage
from ..system.threads import available_threads
from ..texts.info import TextInfo
from .inputs import Base, Original, ScoredText, check_same
from .scores import Comparison, Scores, compare, negative_log_likelihood

if TYPE_CHECKING:
    from ..sources.base import Source

MIN_CONTEXT = 8

# Larger files are mapped, so that the system can take their pages out of memory.
_READ_BYTES = 1 << 32
_MOST_NAMES = 3


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
    parse_special: bool = False,
    reference: Path | Source | None = None,
    reference_name: str | None = None,
    cache: Cache = NO_CACHE,
    threads: int | None = None,
) -> Validation:
    """Measure the GGUF file ``path`` on ``text``; see ``validate_files``."""
    (validation,) = validate_files(
        [path],
        text,
        text_name=text_name,
        context=context,
        chunks=chunks,
        parse_special=parse_special,
        reference=reference,
        reference_name=reference_name,
        cache=cache,
        threads=threads,
    )
    return validation


def validate_files(
    paths: Sequence[Path],
    text: str,
    *,
    text_name: str,
    context: int = 512,
    chunks: int | None = None,
    parse_special: bool = False,
    reference: Path | Source | None = None,
    reference_name: str | None = None,
    cache: Cache = NO_CACHE,
    threads: int | None = None,
) -> list[Validation]:
    """Measure GGUF files on ``text``. The reference is run once for all of them.

    Args:
        paths: files to measure.
        text: the evaluation text.
        text_name: name of the text in the report.
        context: tokens in a window.
        chunks: most windows to use; all when None.
        parse_special: special tokens in the text become tokens, as with llama-perplexity's ``--parse-special``; else
            they are read as text.
        reference: a GGUF file, run in lock-step with the files, window by window; or a model that transformers runs;
            or None. Files that do not fit into memory beside each other make a GGUF reference run again.
        reference_name: name of the reference file in messages, by default its path.
        cache: cache of the reference model's results.
        threads: CPU threads; all cores when None.

    Raises:
        InputError: a file cannot be loaded, it and the reference differ in their tokenizers, the text is shorter than
            one window, or a model's output is not a number.
    """
    if context < MIN_CONTEXT:
        raise InputError(f"A context of {context} tokens is too short; give at least {MIN_CONTEXT}.")
    if chunks is not None and chunks < 1:
        raise InputError(f"Cannot score {chunks} windows; ask for at least 1.")
    for path in paths:
        check_file(path, str(path))
    threads = threads or available_threads()
    scored = ScoredText(text, text_name, context, chunks, parse_special)
    with ThreadPoolExecutor(threads) as pool:
        if isinstance(reference, Path):
            groups = _fitting(paths, reference)
            parts = [_beside_file(group, scored, reference, reference_name, pool, threads) for group in groups]
            return [validation for part in parts for validation in part]
        original = None if reference is None else Original(reference, cache, threads)
        return [_one(path, scored, original, pool, threads) for path in paths]


def _one(path: Path, scored: ScoredText, original: Original | None, pool: Executor, threads: int) -> Validation:
    """Measure a file alone, or against a reference that transformers runs."""
    with ExitStack() as stack:
        engine = stack.enter_context(_load(path, scored, threads))
        tokens = engine.tokenize(scored.text, parse_special=scored.parse_special)
        windows = scored.cut(tokens)
        base, label = None, ""
        if original is not None:
            if not original.is_ready:
                original.run(engine, tokens, scored)
                engine = stack.enter_context(_load(path, scored, threads))
            base, label = original.base(engine, tokens)
        return _score([engine], base, label, windows, scored, pool)[0]


def _beside_file(
    paths: Sequence[Path], scored: ScoredText, reference: Path, name: str | None, pool: Executor, threads: int
) -> list[Validation]:
    """Measure files in lock-step with a GGUF file."""
    with ExitStack() as stack:
        engines = [stack.enter_context(_load(path, scored, threads)) for path in paths]
        ids = [engine.tokenize(scored.text, parse_special=scored.parse_special) for engine in engines]
        windows = scored.cut(ids[0])
        other = stack.enter_context(
            Engine(reference, context=scored.context, parallel=scored.parallel, threads=threads, label=name)
        )
        theirs = other.tokenize(scored.text, parse_special=scored.parse_special)
        for engine, tokens in zip(engines, ids, strict=True):
            check_same(engine, tokens, other.label, other.n_vocab, theirs)

        def base(part: slice) -> Iterable[tuple[slice, Logits]]:
            other.run(windows[part])
            return ((rows, other.rows(rows)) for rows in other.pieces(len(windows[part])))

        return _score(engines, base, other.label, windows, scored, pool)


def _load(path: Path, scored: ScoredText, threads: int) -> Engine:
    mapped = not path.is_file() or stored_bytes(path) > _READ_BYTES
    return Engine(path, context=scored.context, parallel=scored.parallel, threads=threads, mapped=mapped)


def _fitting(paths: Sequence[Path], reference: Path) -> list[list[Path]]:
    """The files in groups that fit into half of the free memory beside the reference; one file at least."""
    room = most_beside() // 2 - stored_bytes(reference)
    groups: list[list[Path]] = []
    left = 0
    for path in paths:
        size = stored_bytes(path)
        if not groups or size > left:
            groups.append([])
            left = room
        left -= size
        groups[-1].append(path)
    return groups


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


def _alone(nll: Scores) -> Comparison:
    """Scores of a model without a reference."""
    none = np.empty(0)
    return Comparison(nll, none, none, none.astype(np.bool_))


def _score(
    engines: Sequence[Engine], base: Base | None, label: str, windows: Tokens, scored: ScoredText, pool: Executor
) -> list[Validation]:
    """Score all windows with each engine; ``base`` gives the logits of a reference called ``label``."""
    parts: list[list[Comparison]] = [[] for _ in engines]
    for engine in engines:
        if scored.context > engine.trained_context:
            name, limit = engine.path.name, engine.trained_context
            log(f"{name} was trained on {limit} tokens; windows of {scored.context} are longer.")
    names = [engine.path.name for engine in engines]
    title = f"Scoring {', '.join(names) if len(names) <= _MOST_NAMES else f'{len(names)} files'}"
    with stage(title, len(windows)) as step:
        for start in range(0, len(windows), scored.parallel):
            part = slice(start, min(start + scored.parallel, len(windows)))
            batch = windows[part]
            targets = batch[:, engines[0].first + 1 :].reshape(-1)
            for engine in engines:
                engine.run(batch)
            if base is None:
                for engine, mine in zip(engines, parts, strict=True):
                    for rows in engine.pieces(len(batch)):
                        alone = _alone(negative_log_likelihood(engine.rows(rows), targets[rows], pool))
                        mine.append(_finite(alone, engine.label, label))
            else:
                for rows, theirs in base(part):
                    for engine, mine in zip(engines, parts, strict=True):
                        pair = compare(theirs, engine.rows(rows), targets[rows], pool)
                        mine.append(_finite(pair, engine.label, label))
            for _ in batch:
                step()
    compared = base is not None
    return [_record(engine, mine, windows, scored, compared) for engine, mine in zip(engines, parts, strict=True)]


def _finite(comparison: Comparison, *labels: str) -> Comparison:
    """The comparison, if the file ``labels[0]`` and the reference ``labels[1]`` gave numbers."""
    for values, model in zip((comparison.nll, comparison.reference_nll), labels, strict=True):
        if not np.isfinite(values).all():
            raise InputError(f"{model} gives outputs that are not numbers; write the file again.")
    return comparison


def _record(
    engine: Engine, parts: Sequence[Comparison], windows: Tokens, scored: ScoredText, compared: bool
) -> Validation:
    scores = Comparison(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Comparison)))
    mean, error = mean_and_error(scores.nll)
    validation = Validation(
        ppl=float(np.exp(mean)),
        ppl_se=float(np.exp(mean)) * error,
        tokens=len(scores.nll),
        file_bytes=stored_bytes(engine.path),
        context=scored.context,
        chunks=len(windows),
        text=TextInfo(scored.name, hashlib.sha256(scored.text.encode("utf-8")).hexdigest(), int(windows.size)),
        flash_attention=engine.flash_attention,
    )
    return _with_distance(validation, scores) if compared else validation
