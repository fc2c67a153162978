"""The storage types of ggml that this project writes: sizes, and where each is used.

A new type is one line of ``_TABLE``, and one of ``blocks.layouts`` if error feedback is to choose its codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal

from .names import TensorName

SUPER_BLOCK = 256
"""Weights in a super-block; rows of another length cannot be stored in the K-quants and most codebook types."""

Candidate = Literal["k", "narrow", "portable", "codebook"]


@dataclass(frozen=True)
class GgmlType:
    """One ggml storage type.

    Attributes:
        name: ggml's name in upper case, e.g. ``Q4_K``.
        id: value of ``enum ggml_type``.
        block: weights in one block; a row's length must be a multiple of it.
        block_bytes: bytes of one block.
        bits: nominal bits of a code (the paper's meaning of "bits").
        uses_importance: True if ggml's encoder reads the importance vector.
        needs_importance: True if ggml refuses to encode without an importance vector, or ruins the weights.
        ftype: value of ``enum llama_ftype`` for a file of mostly this type; None for types that are only copied.
        candidate: which candidates of allocation by loss it belongs to: ``k`` for all rows that it fits, ``narrow`` for
            rows that no super-block fits, ``portable`` for those rows of portable files, ``codebook`` only when asked
            for; None for no allocation by loss.
        fallback: True if it may stand for a type that does not fit the rows.
        portable: True if programs with kernels of their own read it too, such as mistral.rs.
        level: the level of nominal bits that it stands for, or None.
    """

    name: str
    id: int
    block: int
    block_bytes: int
    bits: int
    uses_importance: bool = False
    needs_importance: bool = False
    ftype: int | None = None
    candidate: Candidate | None = None
    fallback: bool = False
    portable: bool = True
    level: int | None = None

    @property
    def bpw(self) -> float:
        """Bits in the file per weight."""
        return 8.0 * self.block_bytes / self.block

    def fits(self, columns: int) -> bool:
        """True if rows of ``columns`` weights can be stored in this type."""
        return columns % self.block == 0

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of ``shape`` (numpy order, the row length last)."""
        return prod(shape) // self.block * self.block_bytes


_TABLE = (
    GgmlType("F32", 0, 1, 4, 32, ftype=0),
    GgmlType("F16", 1, 1, 2, 16, ftype=1, fallback=True),
    GgmlType("BF16", 30, 1, 2, 16, ftype=32),
    GgmlType("Q4_0", 2, 32, 18, 4, True, ftype=2, candidate="portable"),
    GgmlType("Q4_1", 3, 32, 20, 4, True, ftype=3, candidate="narrow", fallback=True),
    GgmlType("Q5_0", 6, 32, 22, 5, True, ftype=8, candidate="narrow", fallback=True),
    GgmlType("Q5_1", 7, 32, 24, 5, True, ftype=9, candidate="narrow", fallback=True),
    GgmlType("Q8_0", 8, 32, 34, 8, ftype=7, candidate="k", fallback=True, level=8),
    GgmlType("Q2_K", 10, 256, 84, 2, True, True, ftype=10, candidate="k", level=2),
    GgmlType("Q3_K", 11, 256, 110, 3, True, ftype=12, candidate="k", level=3),
    GgmlType("Q4_K", 12, 256, 144, 4, True, ftype=15, candidate="k", level=4),
    GgmlType("Q5_K", 13, 256, 176, 5, True, ftype=17, candidate="k", level=5),
    GgmlType("Q6_K", 14, 256, 210, 6, True, ftype=18, candidate="k", level=6),
    GgmlType("IQ2_XXS", 16, 256, 66, 2, True, True, ftype=19, candidate="codebook", portable=False),
    GgmlType("IQ2_XS", 17, 256, 74, 2, True, True, ftype=20, candidate="codebook", portable=False),
    GgmlType("IQ2_S", 22, 256, 82, 2, True, True, ftype=28, candidate="codebook", portable=False),
    GgmlType("IQ3_XXS", 18, 256, 98, 3, True, ftype=23, candidate="codebook", portable=False),
    GgmlType("IQ3_S", 21, 256, 110, 3, True, ftype=26, candidate="codebook", portable=False),
    GgmlType("IQ4_NL", 20, 32, 18, 4, True, ftype=25, candidate="narrow", fallback=True, portable=False),
    GgmlType("IQ4_XS", 23, 256, 136, 4, True, ftype=30, candidate="codebook", portable=False),
    # ggml's encoder does not search for a scale of Q2_0; our own search makes it a candidate, but not a fallback.
    GgmlType("Q2_0", 42, 64, 18, 2, ftype=41, candidate="narrow", portable=False),
)
_BY_SIZE = sorted(_TABLE, key=lambda kind: kind.bpw)

TYPES: dict[str, GgmlType] = {kind.name: kind for kind in _TABLE}
"""Every type this project writes, by name."""

TYPES_BY_ID: dict[int, GgmlType] = {kind.id: kind for kind in _TABLE}
"""The same, by ``enum ggml_type``."""

FILE_TYPES: dict[str, int] = {kind.name: kind.ftype for kind in _TABLE if kind.ftype is not None}
"""``general.file_type`` of a file of mostly one type (``llama_ftype``; of the K-quants the mixture M), by type name."""

K_CANDIDATES: tuple[str, ...] = tuple(kind.name for kind in _BY_SIZE if kind.candidate == "k")
"""Candidates of allocation by loss for rows of whole super-blocks, smallest first; all have fast kernels on ARM."""

NARROW_CANDIDATES: tuple[str, ...] = tuple(
    kind.name for kind in _BY_SIZE if kind.candidate == "narrow" or (kind.candidate == "k" and kind.block < SUPER_BLOCK)
)
"""Candidates of allocation by loss for other rows, smallest first."""

PORTABLE_CANDIDATES: tuple[str, ...] = tuple(
    kind.name for kind in _BY_SIZE if kind.portable and (kind.candidate == "portable" or kind.name in NARROW_CANDIDATES)
)
"""The same for portable files: Q4_0 stands for IQ4_NL, and nothing for Q2_0."""

CODEBOOK_TYPES: tuple[str, ...] = tuple(kind.name for kind in _BY_SIZE if kind.candidate == "codebook")
"""Types with codebooks, smallest first: smaller at the same loss, about half the decoding speed on ARM."""

FALLBACKS: tuple[str, ...] = tuple(kind.name for kind in _BY_SIZE if kind.fallback)
"""Types for rows that no super-block fits, smallest first.

IQ4_NL stands for Q4_0, which has the same size and a coarser grid. Q2_0 and MXFP4 are smaller, but ggml's encoders of
them ignore the importance vector, and weights that were not trained for them are ruined.
"""

PORTABLE_FALLBACKS: tuple[str, ...] = tuple(
    kind.name for kind in _BY_SIZE if kind.portable and (kind.candidate == "portable" or kind.fallback)
)
"""The same for portable files."""

LEVEL_TYPES: dict[int, str] = {kind.level: kind.name for kind in _BY_SIZE if kind.level is not None}
"""The type that stands for a level of nominal bits."""

_NEVER_QUANTISED = re.compile(
    r"_norm\.weight$|^position_embd|^token_types|ffn_gate_inp|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|"
    r"ssm_conv1d|shortconv\.conv|indexer\.|attn_rel_b|hc_|time_mix_(first|lerp_fused|decay|[wvag]\d|decay_w\d)\.weight"
)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """True if a tensor may be quantised (llama.cpp's ``tensor_allows_quantization``).

    Tensors of one dimension may not, nor norms of several heads (StableLM), routers of experts, learned positions, and
    small matrices of recurrent and other blocks on which much depends.
    """
    # ggml does not count leading dimensions of 1.
    several = len(shape) >= 2 and any(size > 1 for size in shape[:-1])
    return several and TensorName.parse(name).is_weight and _NEVER_QUANTISED.search(name) is None


def unportable(names: Iterable[str]) -> list[str]:
    """Those of some types that not every program reads, smallest first."""
    present = set(names)
    return [kind.name for kind in _BY_SIZE if kind.name in present and not kind.portable]


def portability_note(names: Iterable[str]) -> str | None:
    """A sentence about the types of a file that not every program reads; None if all do."""
    limited = unportable(names)
    if not limited:
        return None
    return (
        f"llama.cpp and programs built on it read {', '.join(limited)}, mistral.rs does not; --types portable makes a "
        "file without."
    )
