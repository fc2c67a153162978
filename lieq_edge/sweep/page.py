"""The page of each model of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..page.swept import SweptFile, write_swept
from .plan import Planned
from .table import SweepRow


def write_pages(plans: Sequence[Planned], rows: Mapping[str, SweepRow]) -> tuple[Path, ...]:
    """Write the page of each model anew.

    Args:
        plans: all files of the models.
        rows: rows that there are, by key.

    Returns:
        The pages.
    """
    pages = tuple(dict.fromkeys(plan.page for plan in plans))
    for page in pages:
        of_model = [plan for plan in plans if plan.page == page]
        files = [_swept(plan, rows[plan.row.key]) for plan in of_model if plan.row.key in rows]
        write_swept(page, of_model[0].entry.model, files, len(of_model))
    return pages


def _swept(plan: Planned, row: SweepRow) -> SweptFile:
    return SweptFile(
        row.file, plan.entry.method, row.budget, row.bytes, row.bpw, row.ppl, row.kld, row.kld_se, row.error
    )
