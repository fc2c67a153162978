"""Texts to measure and to calibrate on, and the token windows that are cut from them. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..gguf.header import learned_positions
from ..sources.base import Source
from ..store import NO_CACHE, Cache
from ..system.files import read_text
from .builtin import builtin_tokens
from .documentation import stdlib_text
from .info import TextInfo
from .info import Windows as Windows
from .self_written import Write, self_windows

CALIBRATION_CONTEXT = 512
# Text that the model writes comes in shorter windows, because importance is as good at half the memory and time.
SELF_CONTEXT = 256
SALIENCY_CONTEXT = 512
SALIENCY_TOKENS = 2048

CALIBRATIONS = ("builtin", "docs", "self", "mixed")
"""Names of calibration texts; anything else is the path of a file."""

_BUILTIN_CHARACTERS = {"probe": 40_000, "saliency": 40_000, "validation": 120_000}
# English has 4 characters per token, code fewer; a guess that is too large only costs a little parsing.
_CHARACTERS_PER_TOKEN = 6


def written_tokens(calibration: str, tokens: int) -> int:
    """Tokens that the model writes itself, of ``tokens`` of a calibration text of that name."""
    return {"self": tokens, "mixed": tokens // 2}.get(calibration, 0)


def builtin_text(purpose: str) -> tuple[str, str]:
    """The built-in text for ``probe``, ``saliency`` or ``validation``, and its name; the three share no document."""
    return stdlib_text(purpose, _BUILTIN_CHARACTERS[purpose])


def load_text(path: Path) -> str:
    """Read a text file.

    Raises:
        InputError: the file is missing, not UTF-8, or empty.
    """
    text = read_text(path, "the text")
    if not text.strip():
        raise InputError(f"The text {path} is empty; give one with some pages of writing.")
    return text


def windows(
    ids: list[int], context: int, count: int | None = None, bos: int | None = None, *, name: str = "the text"
) -> Windows:
    """Cut token ids into windows, spread evenly over the text.

    Args:
        ids: tokens of the text, without BOS.
        context: tokens of a window.
        count: largest number of windows; None takes all that fit side by side.
        bos: id that each window starts with, or None; it takes one of the ``context`` places.
        name: name of the text in messages.

    Returns:
        int64 ``(n, context)``, 1 <= n <= ``count``.

    Raises:
        InputError: the text is shorter than one window.
    """
    start = [] if bos is None else [bos]
    body = context - len(start)
    fitting = len(ids) // body
    if fitting == 0:
        raise InputError(f"There are {len(ids)} tokens in {name}, fewer than one window of {body}; give a longer text.")
    n = fitting if count is None else min(count, fitting)
    firsts = [i * fitting // n * body for i in range(n)]
    return np.array([start + ids[first : first + body] for first in firsts], np.int64)


def longest_window(source: Source, wanted: int) -> int:
    """``wanted`` tokens, or fewer if the model has learned fewer positions."""
    return min(wanted, learned_positions({spec.name: spec.shape for spec in source.tensors()}) or wanted)


def text_windows(source: Source, text: str, name: str, *, tokens: int, context: int) -> tuple[Windows, TextInfo]:
    """Windows ``(n, context)`` of a text, at most about ``tokens`` in all, each with BOS if the model expects it.

    Raises:
        InputError: the text is shorter than one window, or a window longer than the model's learned positions.
    """
    if context > longest_window(source, context):
        limit = longest_window(source, context)
        raise InputError(
            f"{source.label} has learned positions for {limit} tokens and a window has {context}; take shorter windows "
            f"(--probe-tokens {limit})."
        )
    bos = source.bos_id if source.adds_bos else None
    cut = windows(source.tokenize(text), context, max(1, tokens // context), bos, name=name)
    return cut, TextInfo.of(name, text, cut.size)


def calibration_windows(
    source: Source,
    calibration: str,
    *,
    tokens: int,
    seed: int = 0,
    write: Write | None = None,
    cache: Cache = NO_CACHE,
) -> tuple[Windows, TextInfo]:
    """Token windows to calibrate on.

    Args:
        source: model, for its tokenizer.
        calibration: ``builtin`` (prose, code and conversations, see ``builtin_tokens``), ``docs`` (Python's
            documentation), ``self`` (text that the model writes), ``mixed`` (half of each of these two), or the path
            of a text file.
        tokens: approximate largest number of tokens.
        seed: seed of the order of the documentation, and of the sampling from the model.
        write: samples from the model, for ``self`` and ``mixed``; see ``self_windows``.
        cache: cache of this model's results.

    Returns:
        Token ids ``(n, T)``, T = ``CALIBRATION_CONTEXT`` or ``SELF_CONTEXT``, and the record of the text. The hash of
        ``mixed`` is made from the hashes of both texts.

    Raises:
        InputError: the file cannot be read or is shorter than one window.
    """
    if calibration == "builtin":
        context = longest_window(source, min(CALIBRATION_CONTEXT, tokens))
        ids, info = builtin_tokens(source, tokens=tokens, seed=seed)
        bos = source.bos_id if source.adds_bos else None
        cut = windows(ids, context, max(1, tokens // context), bos, name=info.name)
        return cut, TextInfo(info.name, info.sha256, cut.size)
    if calibration == "docs":
        return _documentation(source, tokens, longest_window(source, min(CALIBRATION_CONTEXT, tokens)), seed)
    if count := written_tokens(calibration, tokens):
        context = longest_window(source, min(SELF_CONTEXT, count))
        assert write is not None
        written, info = self_windows(source, tokens=count, context=context, seed=seed, write=write, cache=cache)
        if calibration == "self":
            return written, info
        docs, docs_info = _documentation(source, count, context, seed)
        together = np.concatenate([docs, written])
        name = f"{docs_info.name} + {info.name}"
        return together, TextInfo.of(name, f"{docs_info.sha256} {info.sha256}", together.size)
    path = Path(calibration)
    context = longest_window(source, min(CALIBRATION_CONTEXT, tokens))
    return text_windows(source, load_text(path), path.name, tokens=tokens, context=context)


def _documentation(source: Source, tokens: int, context: int, seed: int) -> tuple[Windows, TextInfo]:
    text, name = stdlib_text("calibration", tokens * _CHARACTERS_PER_TOKEN, seed)
    return text_windows(source, text, name, tokens=tokens, context=context)
