"""Run windows through llama.cpp and observe the inputs of its matrices."""

from __future__ import annotations

from pathlib import Path

from ..llama.session import Consume, observed
from ..sources.base import Source
from ..system.progress import stage
from ..system.threads import available_threads
from ..texts.windows import Windows


def observe(
    source: Source, tokens: Windows, names: frozenset[str], consume: Consume, title: str, threads: int | None
) -> None:
    """Pass the inputs of some matrices to a function.

    Args:
        source: model that llama.cpp runs.
        tokens: windows of token ids, ``(n, T)``.
        names: GGUF names of the matrices.
        consume: function that receives the inputs of each matrix, window by window.
        title: title of the stage.
        threads: number of CPU threads, None for all cores.
    """
    with (
        observed(
            model_path(source), names, consume, context=tokens.shape[1], threads=threads or available_threads()
        ) as session,
        stage(title, len(tokens)) as advance,
    ):
        for window in tokens:
            session.run(window)
            advance()


def model_path(source: Source) -> Path:
    """The GGUF file that llama.cpp loads."""
    assert source.gguf_path is not None
    return source.gguf_path
