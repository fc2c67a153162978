"""Which types llama.cpp stores in another layout when it loads a file (``ggml_repack_get_optimal_repack_type``).

The matrices of these types read prompts faster. Where the file is mapped they are in memory twice: as mapped pages, and
as a copy in the other layout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from ..llama.memory import processor_features

Instructions = Literal["neon", "neon-dotprod", "neon-i8mm", "avx2", "avx512", "none"]
"""Instructions of a processor, as far as llama.cpp chooses layouts by them."""

_DOTPROD = {"Q1_0": 4, "Q4_0": 4, "IQ4_NL": 4, "MXFP4": 4, "Q8_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8}
_AVX2 = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}

_ROWS: dict[Instructions, dict[str, int]] = {
    "none": {},
    "neon": {},
    "neon-dotprod": _DOTPROD,
    "neon-i8mm": _DOTPROD,
    "avx2": _AVX2,
    "avx512": {**_AVX2, "Q2_K": 8},
}


def repacked_types(instructions: Instructions) -> Mapping[str, int]:
    """Types that get another layout, and the number by which the rows of a matrix have to be divisible."""
    return _ROWS[instructions]


def is_repacked(type_name: str, shape: tuple[int, ...], instructions: Instructions) -> bool:
    """Whether a matrix gets another layout.

    Args:
        type_name: its type.
        shape: its shape in numpy order: ``(rows, columns)``, of experts ``(experts, rows, columns)``.
        instructions: those of the processor.
    """
    rows = _ROWS[instructions].get(type_name)
    return rows is not None and len(shape) >= 2 and shape[-2] % rows == 0


def own_instructions() -> Instructions:
    """The instructions by which llama.cpp chooses layouts on this machine."""
    return instructions_of(processor_features())


def instructions_of(features: Collection[str]) -> Instructions:
    """The instructions by which llama.cpp chooses layouts, from the features that it names (``processor_features``)."""
    if "REPACK" not in features:
        return "none"
    if "NEON" in features:
        if "MATMUL_INT8" in features:
            return "neon-i8mm"
        return "neon-dotprod" if "DOTPROD" in features else "neon"
    if "AVX512" in features:
        return "avx512"
    return "avx2" if "AVX2" in features else "none"
