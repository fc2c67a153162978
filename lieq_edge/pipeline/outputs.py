"""Names of the files that an export writes."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ..allocation.budget import Budget
from ..errors import InputError
from ..gguf.names import block_of
from ..gguf.types import TYPES, is_matrix
from ..presets.names import preset_name
from ..presets.sizes import preset_sizes
from ..publish.naming import default_file_name
from ..settings import Settings
from ..sources.base import Source

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


@dataclass(frozen=True)
class _Planned:
    """What is known of a file before anything is measured: shapes, and about how many bits a weight it will have."""

    model: str
    file_bpw: float
    tensors: Sequence[_PlannedTensor]


@dataclass(frozen=True)
class _PlannedTensor:
    shape: tuple[int, ...]
    type: str = ""


def default_path(source: Source, settings: Settings, budget: Budget) -> Path:
    """A name by llama.cpp's convention, e.g. ``Qwen3-0.6B-Q4_K_M.gguf``, in the current folder.

    Args:
        source: the model.
        settings: settings of the export; a budget that names a preset gives the encoding.
        budget: the budget, as far as the model can use it.
    """
    matrices = [spec for spec in source.tensors() if is_matrix(spec.name, spec.shape)]
    inside = sum(prod(spec.shape) for spec in matrices if block_of(spec.name) is not None)
    weights = sum(prod(spec.shape) for spec in matrices)
    if budget.kind == "bytes":
        bits = 8 * budget.value / weights
    else:
        # Nominal bits come without scales; embedding and head mostly take Q6_K.
        own = budget.value if budget.kind == "bpw" else 1.1 * budget.value + 0.4
        bits = (own * inside + TYPES["Q6_K"].bpw * (weights - inside)) / weights
    planned = _Planned(source.label, bits, [_PlannedTensor(spec.shape) for spec in matrices])
    preset = preset_name(settings.budget)
    sizes = {} if preset is not None else preset_sizes(source)
    name = default_file_name(
        source.metadata(), planned, {key: 8 * size / weights for key, size in sizes.items()} or None
    )
    return Path(name if preset is None else f"{name.rpartition('-')[0]}-{preset}.gguf")


def plain_name(model: str | Path) -> str:
    """The last part of a model's name, for names of files."""
    path = Path(str(model).rstrip("/\\"))
    name = path.name if path.name not in ("", ".", "..") else path.resolve().name
    return _safe(name.removesuffix(".gguf")) or "model"


def _safe(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text.strip()).strip("-")
