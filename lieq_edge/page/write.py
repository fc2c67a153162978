"""Write a page about finished exports into one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..pipeline.report import ExportReport
from ..system.files import check_output, user_path, write_output
from ..validate.scored import ScoredFile
from .answers import Answer
from .fill import fill
from .view import make_view


def write_page(
    path: str | Path,
    reports: Sequence[ExportReport],
    *,
    compared: Sequence[ScoredFile] = (),
    answers: Sequence[Answer] = (),
    command: str = "",
    replace: bool = False,
) -> None:
    """Write a page about finished files; it appears whole or not at all.

    The page is one HTML file without scripts, and a browser requests nothing else for it. What was not measured is
    not on it.

    Args:
        path: HTML file to write.
        reports: exports of one model, in any order.
        compared: scores of files that others would take instead. An entry named as the file of a report adds its
            speeds to that file.
        answers: prompts that the original and a file have answered.
        command: command that wrote the files.
        replace: True replaces an existing file.

    Raises:
        InputError: there is no report, or ``path`` cannot be written or exists.
    """
    if not reports:
        raise InputError("A page needs the report of at least one export.")
    path = user_path(path)
    check_output(path, force=replace)
    page = render(reports, compared=compared, answers=answers, command=command)
    write_output(path, page.encode("utf-8"), replace=replace)


def render(
    reports: Sequence[ExportReport],
    *,
    compared: Sequence[ScoredFile] = (),
    answers: Sequence[Answer] = (),
    command: str = "",
) -> str:
    """The page of ``write_page`` as text."""
    view = make_view(reports, compared, answers, command)
    return fill("page.html", view)
