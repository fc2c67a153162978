"""Run windows through llama.cpp and look at what its matrices receive."""

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
    """Hand what the matrices ``names`` receive of the windows ``(n, T)`` to ``consume``."""
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
    """The file by which llama.cpp loads the model."""
    assert source.gguf_path is not None
    return source.gguf_path
