"""The label of a mixed file: ``general.file_type``, and the encoding in its name.

Neither has a value for a mixture of lieq-edge's own. A file takes the label of llama.cpp's preset that has about as
many bits a weight for the same model, so that the hub, Ollama and llama.cpp show what their users know.
"""

from __future__ import annotations

from math import prod

from ..errors import InputError
from ..gguf.names import block_of
from ..gguf.types import SUPER_BLOCK, is_matrix
from ..publish.naming import PRESET_BITS
from ..sources.base import Source
from .names import FILE_TYPES, K_LABELS, NARROW_LABELS, preset_name
from .sizes import preset_bits

LABEL_FILE_TYPES: dict[str, int] = {**FILE_TYPES, "F16": 1}
"""Value of ``enum llama_ftype`` by label."""


def label_of(source: Source, bits: float, budget: str) -> str:
    """The label of a file.

    Args:
        source: the model.
        bits: bits a weight of the file, over all its weights.
        budget: text of the user's budget; one that names a preset gives the label.
    """
    named = preset_name(budget)
    if named is not None:
        return named
    # For narrow rows llama.cpp's K-quant presets take the simple types: of equal sizes, those name what is there.
    names = (*NARROW_LABELS, *K_LABELS) if _is_narrow(source) else K_LABELS
    try:
        sizes = preset_bits(source, names)
    except InputError:  # llama.cpp does not quantise this model, or the folder for temporary files is full
        sizes = {name: PRESET_BITS[name] for name in K_LABELS}
    return nearest_label(bits, sizes)


def nearest_label(bits: float, sizes: dict[str, float]) -> str:
    """The preset of about as many bits a weight, or F16; of equal ones the first.

    Args:
        bits: bits a weight of a file.
        sizes: those of the presets for the same model, by name.
    """
    labels = {**sizes, "F16": PRESET_BITS["F16"]}
    return min(labels, key=lambda name: abs(labels[name] - bits))


def _is_narrow(source: Source) -> bool:
    """Whether most weights of the blocks are in rows that no super-block fits."""
    wide = narrow = 0
    for spec in source.tensors():
        if is_matrix(spec.name, spec.shape) and block_of(spec.name) is not None:
            if spec.shape[-1] % SUPER_BLOCK:
                narrow += prod(spec.shape)
            else:
                wide += prod(spec.shape)
    return narrow > wide
