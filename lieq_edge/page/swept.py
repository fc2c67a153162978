"""A page about the files of a sweep: size against KL divergence of one model, by metric and effort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..system.files import write_output
from .fill import fill
from .frontier import Frontier, Point, frontier
from .numbers import file_name

# A wide picture and one for a phone: letters keep their size.
_WIDE, _NARROW = (860, 460), (360, 400)
_COLOURS = 6


@dataclass(frozen=True)
class SweptFile:
    """A file of a sweep, or the reason why there is none.

    Attributes:
        file: name of the file.
        method: metric and effort, for people.
        budget: budget of the user.
        file_bytes: size; None where there is no file, as for all below but ``error``.
        bpw: bits a weight, over all weights.
        ppl: perplexity; None where it was not scored.
        kld: mean KL divergence from the original, nats a token; None where it was not compared.
        kld_se: its standard error.
        error: sentence that says why there is no file.
    """

    file: str
    method: str
    budget: str
    file_bytes: int | None = None
    bpw: float | None = None
    ppl: float | None = None
    kld: float | None = None
    kld_se: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Page:
    """What the template reads."""

    model: str
    expected: int
    methods: tuple[tuple[int, str], ...]
    frontiers: tuple[Frontier, ...]
    ready: tuple[SweptFile, ...]
    best: frozenset[str]
    failed: tuple[SweptFile, ...]


def write_swept(path: Path, model: str, files: Sequence[SweptFile], expected: int) -> None:
    """Write the page of a model; it appears whole or not at all, and replaces an older one.

    Args:
        path: HTML file to write.
        model: name of the model.
        files: files that are ready, or cannot be made.
        expected: number of files that there will be in the end.

    Raises:
        InputError: ``path`` cannot be written.
    """
    write_output(path, render_swept(model, files, expected).encode("utf-8"))


def render_swept(model: str, files: Sequence[SweptFile], expected: int) -> str:
    """The page of ``write_swept`` as text."""
    methods = {method: number for number, method in enumerate(dict.fromkeys(file.method for file in files))}
    points = [
        Point(file.budget, file.file_bytes / 1e6, file.kld, True, methods[file.method])
        for file in files
        if file.file_bytes is not None and file.kld is not None and file.kld > 0
    ]
    ready = sorted(
        (file for file in files if file.error is None), key=lambda file: (file.file_bytes or 0, file.method, file.file)
    )
    page = _Page(
        model=file_name(model),
        expected=expected,
        methods=tuple((number % _COLOURS, method) for method, number in methods.items()),
        frontiers=(frontier(points, *_WIDE), frontier(points, *_NARROW)) if points else (),
        ready=tuple(ready),
        best=frozenset(file.file for file in ready if _is_best(file, ready)),
        failed=tuple(file for file in files if file.error is not None),
    )
    return fill("sweep.html", page)


def _is_best(file: SweptFile, files: Sequence[SweptFile]) -> bool:
    """No file that is not larger is closer to the original."""
    rivals = [other for other in files if other is not file and other.kld is not None]
    return file.kld is not None and all(
        (other.file_bytes or 0) > (file.file_bytes or 0) or (other.kld or 0.0) > file.kld for other in rivals
    )
