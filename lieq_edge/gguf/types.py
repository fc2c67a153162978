"""The storage types of ggml that this project writes, with their sizes and what each is good for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class GgmlType:
    """One ggml storage type.

    Attributes:
        name: ggml's name in upper case, e.g. ``Q4_K``.
        id: value of ``enum ggml_type``.
        block: weights in one block; a row's length must be a multiple of it.
        block_bytes: bytes of one block.
        bits: nominal bits of a code (the paper's meaning of "bits").
        uses_importance: ggml's encoder reads the importance vector.
        needs_importance: ggml refuses to encode, or ruins the weights, without an importance vector.
    """

    name: str
    id: int
    block: int
    block_bytes: int
    bits: int
    uses_importance: bool = False
    needs_importance: bool = False

    @property
    def bpw(self) -> float:
        """Physical bits a weight."""
        return 8.0 * self.block_bytes / self.block

    def fits(self, columns: int) -> bool:
        """True when rows of ``columns`` weights can be stored in this type."""
        return columns % self.block == 0

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of ``shape`` (numpy order, the row length last)."""
        return prod(shape) // self.block * self.block_bytes


_ALL = (
    GgmlType("F32", 0, 1, 4, 32),
    GgmlType("F16", 1, 1, 2, 16),
    GgmlType("BF16", 30, 1, 2, 16),
    GgmlType("Q4_0", 2, 32, 18, 4, True),
    GgmlType("Q4_1", 3, 32, 20, 4, True),
    GgmlType("Q5_0", 6, 32, 22, 5, True),
    GgmlType("Q5_1", 7, 32, 24, 5, True),
    GgmlType("Q8_0", 8, 32, 34, 8),
    GgmlType("Q2_K", 10, 256, 84, 2, True, True),
    GgmlType("Q3_K", 11, 256, 110, 3, True),
    GgmlType("Q4_K", 12, 256, 144, 4, True),
    GgmlType("Q5_K", 13, 256, 176, 5, True),
    GgmlType("Q6_K", 14, 256, 210, 6, True),
    GgmlType("IQ2_XXS", 16, 256, 66, 2, True, True),
    GgmlType("IQ2_XS", 17, 256, 74, 2, True, True),
    GgmlType("IQ2_S", 22, 256, 82, 2, True, True),
    GgmlType("IQ3_XXS", 18, 256, 98, 3, True),
    GgmlType("IQ3_S", 21, 256, 110, 3, True),
    GgmlType("IQ4_NL", 20, 32, 18, 4, True),
    GgmlType("IQ4_XS", 23, 256, 136, 4, True),
    GgmlType("Q2_0", 42, 64, 18, 2),
)

_NEVER_QUANTISED = re.compile(
    r"_norm\.weight$|^position_embd|^token_types|ffn_gate_inp|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|"
    r"ssm_conv1d|shortconv\.conv|indexer\.|attn_rel_b|hc_|time_mix_(first|lerp_fused|decay|[wvag]\d|decay_w\d)\.weight"
)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may be quantised (llama.cpp's ``tensor_allows_quantization``).

    Tensors of one dimension may not, nor norms of several heads (StableLM), routers of experts, learned positions, and
    small matrices of recurrent and other blocks that decide much.
    """
    # ggml counts no leading dimensions of 1.
    several = len(shape) >= 2 and any(size > 1 for size in shape[:-1])
    return several and name.endswith(".weight") and _NEVER_QUANTISED.search(name) is None


TYPES: dict[str, GgmlType] = {t.name: t for t in _ALL}
"""Every type this project writes, by name."""

TYPES_BY_ID: dict[int, GgmlType] = {t.id: t for t in _ALL}
"""The same, by ``enum ggml_type``."""


def storage_type(name: str) -> GgmlType:
    """The type of that name, also where this project only copies tensors that are stored in it.

    Raises:
        KeyError: there is no such type.
    """
    if name in TYPES:
        return TYPES[name]
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[name]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return GgmlType(name, int(kind), block, block_bytes, 8 * block_bytes // block)


I_QUANTS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS")
"""Types with codebooks: smaller at the same loss, about half the decoding speed on ARM."""
