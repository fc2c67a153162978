"""Names of the files that an export writes."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..settings import Settings
from .job import Opened

_FIELDS = ("name", "budget", "size")


def output_paths(model: str | Path, out: str | None, settings: Sequence[Settings]) -> list[Path | None]:
    """A path for the file of each budget.

    Args:
        model: name of the model.
        out: path of the user. ``{name}`` in it stands for the last part of the model's name, ``{budget}`` and
            ``{size}`` for the budget. None leaves all names to ``default_path``.
        settings: settings with each budget.

    Raises:
        InputError: a field is unknown, or several budgets would write one file.
    """
    if out is None:
        return [None] * len(settings)
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(out) if name is not None]
    except ValueError as error:
        raise InputError(f"--out {out} has a brace alone ({error}); write {{name}} or {{budget}}.") from None
    for field in fields:
        if field not in _FIELDS:
            raise InputError(f"--out {out}: {{{field}}} is unknown; {{name}}, {{budget}} and {{size}} are filled in.")
    if len(settings) > 1 and not {"budget", "size"} & set(fields):
        raise InputError(
            f"Several budgets would all write {out}; put {{budget}} into --out, e.g. model-{{budget}}.gguf."
        )
    if not fields:
        return [Path(out)]
    name = plain_name(model)
    budgets = [_safe(each.budget) for each in settings]
    return [Path(out.format(name=name, budget=budget, size=budget)) for budget in budgets]


def default_path(opened: Opened, settings: Settings) -> Path:
    """A path in the current folder: the model's name and the budget."""
    return Path(f"{plain_name(opened.model)}-{_safe(settings.budget)}.gguf")


def plain_name(model: str | Path) -> str:
    """The last part of a model's name, for names of files."""
    path = Path(str(model).rstrip("/\\"))
    name = path.name if path.name not in ("", ".", "..") else path.resolve().name
    return _safe(name.removesuffix(".gguf")) or "model"


def _safe(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text.strip()).strip("-")
