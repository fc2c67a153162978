"""Read a budget: nominal bits, physical bits a weight, or bytes of the finished file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..presets.names import preset_name

FIT = "fit"
"""The budget that a device leaves."""

_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
# No type has more.
_MOST_BITS = 16
_PATTERN = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """Limit of the weights or of the file.

    Attributes:
        kind: ``nominal`` (average code bits of the block weights, the paper's b), ``bpw`` (physical bits a weight
            of the block weights), ``bytes`` (of the finished file, metadata included), ``preset`` (bytes that one of
            llama.cpp's presets takes, which depend on the model) or ``fit`` (bytes that a device has room for).
        value: limit in that unit; 0 for a preset and for ``fit``.
        text: text of the user.
    """

    kind: Literal["nominal", "bpw", "bytes", "preset", "fit"]
    value: float
    text: str


def parse_budget(text: str) -> Budget:
    """Read ``2.1`` (nominal bits), ``3.0bpw``, ``90MB``/``90MiB`` (kB, MB, GB: powers of ten), ``Q4_K_M`` or ``fit``.

    Raises:
        InputError: the text is none of these.
    """
    if (preset := preset_name(text)) is not None:
        return Budget("preset", 0.0, preset)
    if text.strip().lower() == FIT:
        return Budget("fit", 0.0, FIT)
    match = _PATTERN.fullmatch(text)
    if match:
        number, unit = float(match[1]), match[2].lower()
        if math.isfinite(number) and number > 0:
            if unit == "" and number > _MOST_BITS:
                raise InputError(
                    f"--budget {text.strip()}: {match[1]} MB or {match[1]} bits? Write {match[1]}MB for the size of "
                    f"the file; a number without a unit is nominal bits a weight, {_MOST_BITS} at most."
                )
            if unit == "":
                return Budget("nominal", number, text.strip())
            if unit == "bpw":
                return Budget("bpw", number, text.strip())
            if unit in _UNITS:
                return Budget("bytes", float(math.floor(number * _UNITS[unit])), text.strip())
    raise InputError(
        f"The budget {text!r} is not understood; write 90MB (size of the file), 3.0bpw (bits a weight), Q4_K_M (size "
        "of llama.cpp's preset), fit (what --device has room for) or 2.1 (nominal bits)."
    )
