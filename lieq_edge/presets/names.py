"""Names of llama.cpp's presets: mixtures of types that llama-quantize writes under one name."""

from __future__ import annotations

FILE_TYPES: dict[str, int] = {
    "IQ1_S": 24,
    "IQ1_M": 31,
    "IQ2_XXS": 19,
    "IQ2_XS": 20,
    "IQ2_S": 28,
    "IQ2_M": 29,
    "IQ3_XXS": 23,
    "IQ3_XS": 22,
    "IQ3_S": 26,
    "IQ3_M": 27,
    "IQ4_XS": 30,
    "IQ4_NL": 25,
    "Q2_K_S": 21,
    "Q2_K": 10,
    "Q3_K_S": 11,
    "Q3_K_M": 12,
    "Q3_K_L": 13,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "Q8_0": 7,
    # For models that were trained for them.
    "Q1_0": 40,
    "Q2_0": 41,
    "TQ1_0": 36,
    "TQ2_0": 37,
    "MXFP4_MOE": 38,
}
"""Presets that quantise, with their values of ``enum llama_ftype``."""

PRESETS: tuple[str, ...] = tuple(FILE_TYPES)
"""Names of the presets, as llama-quantize has them."""

USUAL: tuple[str, ...] = (
    "Q2_K_S",
    "Q2_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "IQ4_XS",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
)
"""Presets that people take first: they decode quickly everywhere. A comparison that names none takes one of these."""

K_LABELS: tuple[str, ...] = tuple(name for name in USUAL if not name.startswith("IQ"))
"""Presets that a mixture may be named after: those that Ollama, the hub and llama.cpp all show."""

NARROW_LABELS: tuple[str, ...] = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Those of types that have no super-blocks, for models most of whose rows fit none."""

NEAREST = "nearest"
"""In a comparison: the preset whose file is the largest that is no larger than ours."""

_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def preset_name(text: str) -> str | None:
    """The preset that ``text`` names in any case, e.g. ``q4_k_m``; None if it names none.

    ``Q3_K``, ``Q4_K`` and ``Q5_K`` are their mixtures M, as in llama-quantize.
    """
    name = text.strip().upper()
    name = _ALIASES.get(name, name)
    return name if name in FILE_TYPES else None
