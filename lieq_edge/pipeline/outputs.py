"""Names of the files that an export writes."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..allocation.budget import Budget, parse_budget
from ..allocation.plan import PlanOptions, count_weights, is_block_weight, overhead_bytes, plan_fixed, plan_tensor
from ..errors import InputError
from ..evidence.blocks.records import Diagnostics, describe
from ..gguf.types import LEVEL_TYPES
from ..presets.labels import label_of
from ..publish.naming import default_file_name
from ..settings import Settings
from ..sources.base import Source
from ..system.files import user_path

_FIELDS = ("name", "budget", "size")


def output_paths(model: str | Path, out: str | None, settings: Sequence[Settings]) -> list[Path | None]:
    """A path for the file of each budget.

    Args:
        model: name of the model.
        out: path of the user. ``{name}`` in it stands for the last part of the model's name, ``{budget}`` and
            ``{size}`` for the budget. None leaves all names to ``default_path``.
        settings: settings with each budget.

    Raises:
        InputError: a field is unknown or says how it is to be formatted, a budget is given twice, or several budgets
            would write one file.
    """
    check_different(settings)
    if out is None:
        return [None] * len(settings)
    fields = _fields_of(out)
    if len(settings) > 1 and not {"budget", "size"} & set(fields):
        raise InputError(
            f"Several budgets would all write {out}; put {{budget}} into --out, e.g. model-{{budget}}.gguf."
        )
    if not fields:
        return [user_path(out)]
    name = plain_name(model)
    budgets = [safe_name(each.budget) for each in settings]
    return [user_path(out.format(name=name, budget=budget, size=budget)) for budget in budgets]


def check_different(settings: Sequence[Settings]) -> None:
    """Refuse a budget that is given twice, in whatever words.

    Raises:
        InputError: the sentence names the budget.
    """
    seen = set()
    for budget in (parse_budget(each.budget) for each in settings):
        # The value of a preset is known from the model only.
        limit = (budget.kind, budget.value or budget.text)
        if limit in seen:
            raise InputError(f"The budget {budget.text} is given twice; leave one out.")
        seen.add(limit)


def _fields_of(out: str) -> list[str]:
    """Names of the fields in a path of the user."""
    fields = []
    try:
        for _, name, form, conversion in string.Formatter().parse(out):
            if name is None:
                continue
            if name not in _FIELDS:
                raise InputError(f"--out {out}: {{{name}}} is unknown; write {{name}}, {{budget}} or {{size}}.")
            if form or conversion:
                raise InputError(f"--out {out}: a field takes no format; write {{{name}}}.")
            fields.append(name)
    except ValueError as error:
        raise InputError(f"--out {out} has a brace alone ({error}); write {{name}} or {{budget}}.") from None
    return fields


def default_path(source: Source, settings: Settings, budget: Budget) -> Path:
    """A name by llama.cpp's convention, e.g. ``Qwen3-0.6B-Q4_K_M.gguf``, in the current folder.

    Args:
        source: the model.
        settings: settings of the export; a budget that names a preset gives the encoding.
        budget: the budget, as far as the model can use it.
    """
    described = describe(source)
    label = label_of(source, _expected_bits(described, settings, budget), settings.budget)
    shapes = [tensor.shape for tensor in described.tensors]
    return Path(default_file_name(source.metadata(), source.label, shapes, label))


def _expected_bits(described: Diagnostics, settings: Settings, budget: Budget) -> float:
    """About how many bits a weight, over all weights, a file will have that fills its budget."""
    weights = sum(map(count_weights, described.tensors))
    if budget.kind == "bytes":
        return 8 * (budget.value - overhead_bytes(described)) / weights
    options = PlanOptions(
        token_embedding_type=settings.token_embedding_type,
        output_type=settings.output_type,
        portable=settings.portable,
    )
    inside = [tensor for tensor in described.tensors if is_block_weight(tensor)]
    outside = [tensor for tensor in described.tensors if not is_block_weight(tensor)]
    fixed = sum(plan_fixed(tensor, described, options).nbytes for tensor in outside)
    if budget.kind == "bpw":
        return (8 * fixed + budget.value * sum(map(count_weights, inside))) / weights
    # Nominal bits come without scales, and rows that no super-block fits take a larger type.
    levels = sorted(LEVEL_TYPES)
    sizes = [sum(plan_tensor(t, LEVEL_TYPES[level], options).nbytes for t in inside) for level in levels]
    return 8 * (fixed + float(np.interp(budget.value, levels, sizes))) / weights


def plain_name(model: str | Path) -> str:
    """The last part of a model's name, for names of files."""
    path = Path(str(model).rstrip("/\\"))
    name = path.name if path.name not in ("", ".", "..") else path.resolve().name
    return safe_name(name.removesuffix(".gguf")) or "model"


def safe_name(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", text.strip()).strip("-")
