"""One row of a comparison of files, and what follows from several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .perplexity import Validation

SAME_SIZE = 1.01
"""Files whose sizes differ by less than this factor count as equally large: no budget is filled to the last byte."""


@dataclass(frozen=True)
class ScoredFile:
    """A file, and what it was measured to be worth.

    Attributes:
        name: name for people: a path, or the name of a preset such as ``Q4_K_M``.
        file_bytes: size of the file.
        validation: perplexity of the file, and its distance from the original.
        prefill: tokens a second while a prompt is read; None where it was not measured.
        decode: tokens a second while text is written; None where it was not measured.
    """

    name: str
    file_bytes: int
    validation: Validation
    prefill: float | None = None
    decode: float | None = None


def better_choice(rows: Sequence[ScoredFile]) -> ScoredFile | None:
    """The best of the rows behind the first that are no larger than it and closer to the original; None if none is.

    A row that is larger by less than 1 % counts as no larger.
    """
    ours, *others = rows
    limit = SAME_SIZE * ours.file_bytes
    winners = [row for row in others if row.file_bytes <= limit and _kld(row) < _kld(ours)]
    return min(winners, key=_kld, default=None)


def comparison_note(rows: Sequence[ScoredFile]) -> str:
    """A sentence about the first row and the others: which to take, by size and KL divergence."""
    ours, *others = rows
    better = better_choice(rows)
    if better is not None:
        return (
            f"Warning: {better.name} is the better choice: KL divergence {_kld(better):.4g} at "
            f"{better.file_bytes / 1e6:.1f} MB, and {_kld(ours):.4g} at {ours.file_bytes / 1e6:.1f} MB here."
        )
    return " ".join(_against(ours, other) for other in others)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Names of files for a table: without the folder, if they all lie in the same one."""
    folders = {path.parent.absolute() for path in paths}
    return [path.name if len(folders) == 1 else str(path) for path in paths]


def _against(ours: ScoredFile, other: ScoredFile) -> str:
    ratio = _kld(ours) / _kld(other) if _kld(other) else float("inf")
    share = 100 * (ours.file_bytes / other.file_bytes - 1)
    size = "the same size" if abs(share) < 0.05 else f"{abs(share):.1f} % {'fewer' if share < 0 else 'more'} bytes"
    return f"KL divergence {ratio:.2f} times that of {other.name}, at {size}."


def _kld(row: ScoredFile) -> float:
    assert row.validation.kld is not None, f"{row.name} was not compared with an original"
    return row.validation.kld
