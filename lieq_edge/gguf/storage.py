"""Every storage type of ggml, including those that this project only copies."""

from __future__ import annotations

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from .types import TYPES, GgmlType


def storage_type(name: str) -> GgmlType:
    """The type of that name, including types that this project only copies.

    Raises:
        KeyError: ggml has no such type.
    """
    if name in TYPES:
        return TYPES[name]
    kind = GGMLQuantizationType[name]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return GgmlType(name, int(kind), block, block_bytes, 8 * block_bytes // block)
