"""Tell the tensors of a GGUF file apart by their names alone, whatever the architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gguf import Keys

from ...errors import InputError
from ...gguf.types import is_matrix
from ..checks import check_blocks
from ..rope import Get

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_OUTER = frozenset({"token_embd.weight", "per_layer_token_embd.weight", "output.weight"})


def is_encoded(name: str, shape: tuple[int, ...]) -> bool:
    """True for a tensor that gets a type by the plan; what is left keeps the bytes it has.

    Args:
        name: GGUF name.
        shape: numpy order.
    """
    return name in _OUTER or (_BLOCK.fullmatch(name) is not None and is_matrix(name, shape))


def count_blocks(shapes: Mapping[str, tuple[int, ...]], get: Get, label: str) -> int:
    """How many Transformer blocks there are.

    Args:
        shapes: of the tensors, by name.
        get: gives the file's keys.
        label: of the model, for messages.

    Raises:
        InputError: there are none, some are missing, or some are no part of next-token prediction.
    """
    found = {int(match[1]) for name in shapes if (match := _BLOCK.fullmatch(name))}
    if not found:
        raise InputError(
            f"{label} holds no Transformer blocks (tensors named blk.0.* and so on); give the GGUF file of a decoder."
        )
    wanted = get(Keys.LLM.BLOCK_COUNT)
    count = wanted if isinstance(wanted, int) and wanted > max(found) else max(found) + 1
    check_blocks(count, len(shapes), label)
    if found != set(range(count)):
        missing = min(set(range(count)) - found)
        raise InputError(f"{label} lacks the block {missing} of {count}; fetch the whole model.")
    if get(Keys.LLM.NEXTN_PREDICT_LAYERS):
        raise InputError(
            f"{label} has blocks that predict several tokens ahead (nextn_predict_layers), which cannot be measured; "
            "convert the model without them."
        )
    bare = set(range(count)) - {
        int(match[1]) for name, shape in shapes.items() if (match := _BLOCK.fullmatch(name)) and is_encoded(name, shape)
    }
    if bare:
        raise InputError(f"The block {min(bare)} of {label} holds no matrix to quantise; give a dense decoder.")
    return count
