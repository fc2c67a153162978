"""Numbers as a page shows them, and text from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ..system.terminal import clean

MISSING = "–"

# Line ends and tabs of texts stay, and what joins letters and emoji.
_KEPT = frozenset("\n\t\u200c\u200d")


def number(value: float | None) -> str:
    """Three digits, without an exponent where that is short."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def with_error(value: float, error: float) -> str:
    """A value and its standard error, with the digits of the value."""
    text = number(value)
    _, point, digits = text.partition(".")
    if not error or not point or "e" in text:
        return text
    return f"{text} ± {error:.{len(digits)}f}"


def decimals(value: float | None, digits: int = 2) -> str:
    """``digits`` digits behind the point."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """``0.963`` as ``96.3 %``."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def setting(value: Any) -> str:
    """The value of a setting, as a flag has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(item) for item in value)
    return str(value)


def file_name(path: str) -> str:
    """The last part of a path, or all of a name that has no parts."""
    return PurePath(path).name or path


def passages(text: str) -> list[tuple[str, bool]]:
    """The parts of an answer, and whether each is code: what stands between lines of three backquotes."""
    parts: list[tuple[list[str], bool]] = [([], False)]
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            parts.append(([], not parts[-1][1]))
        else:
            parts[-1][0].append(line)
    joined = [("\n".join(lines).strip("\n"), is_code) for lines, is_code in parts]
    return [part for part in joined if part[0].strip()]


def shown(value: Any) -> Any:
    """Text in which nothing but letters takes effect: names, prompts and answers come from others.

    Characters that HTML does not allow, and those that change the direction of what follows, become spaces. Markup is
    escaped by the template.
    """
    if type(value) is not str:
        return value
    return "".join(character if character in _KEPT else clean(character) for character in value)
