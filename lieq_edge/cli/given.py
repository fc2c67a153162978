"""What the user asked for, as settings of the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..evidence.blocks.records import Diagnostics


_REFUSALS = {"no_validate": "validation", "no_reference": "reference", "no_parity": "parity", "no_cache": "cache"}


def parse_levels(text: str) -> tuple[int, ...]:
    """Read ``2,3,4``.

    Raises:
        InputError: not numbers with commas between them.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--levels takes numbers with commas, e.g. 2,3,4; got {text!r}.") from None


def given_flags(context: typer.Context) -> dict[str, Any]:
    """The settings among the flags that the user gave; where they gave none, a recipe or the default counts.

    The commands name their flags for typer; the values of settings are taken from here.
    """
    from dataclasses import fields

    from ..settings import ExportSettings

    names = {field.name for field in fields(ExportSettings)}
    given: dict[str, Any] = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT":
            continue
        if name == "levels":
            given[name] = parse_levels(value)
        elif name in _REFUSALS:
            given[_REFUSALS[name]] = not value
        elif name == "context_tokens":
            given["context"] = value
        elif name in names:
            given[name] = value
    return given


def load_diagnostics(path: Path, asked: dict[str, Any]) -> Diagnostics:
    """Saved measurements; settings that say how to measure must agree with how they were made."""
    from ..evidence.blocks.records import Diagnostics
    from ..system.jsonio import load_json

    saved = load_json(Diagnostics, path)
    made: dict[str, Any] = {"projections": saved.projections, "baseline": saved.baseline}
    if saved.probe is not None:
        made |= {"probe_text": saved.probe.name, "probe_tokens": saved.probe.tokens}
    for name, value in made.items():
        wanted = asked.get(name)
        if wanted is not None and value != (Path(wanted).name if name == "probe_text" else wanted):
            flag = name.replace("_", "-")
            raise InputError(f"{path} was measured with --{flag} {value}, not {wanted}; run analyze again.")
    return saved


def check_ratio(ratio: float | None) -> None:
    # The comparison asks for success, so that NaN is refused too.
    if ratio is not None and not ratio > 0:
        raise InputError(f"--max-ppl-ratio takes a number above 0, e.g. 1.1; got {ratio:g}.")
