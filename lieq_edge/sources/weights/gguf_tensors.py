"""Tell the tensors of a GGUF file apart by their names alone, whatever the architecture."""

from __future__ import annotations

from collections.abc import Mapping

from gguf import Keys

from ...errors import InputError
from ...gguf.names import EMBEDDING, HEAD, block_of, block_tensor
from ...gguf.types import is_matrix
from ..checks import check_blocks
from ..rope import Get

_OUTER = frozenset({EMBEDDING, "per_layer_token_embd.weight", HEAD})


def is_encoded(name: str, shape: tuple[int, ...]) -> bool:
    """True for a tensor that gets a type by the plan; all others keep the bytes they have.

    Args:
        name: GGUF name.
        shape: numpy order.
    """
    return name in _OUTER or (block_of(name) is not None and is_matrix(name, shape))


def count_blocks(shapes: Mapping[str, tuple[int, ...]], get: Get, label: str) -> int:
    """The number of Transformer blocks.

    Args:
        shapes: shapes of the tensors, by name.
        get: gives the file's keys.
        label: the model's name, for messages.

    Raises:
        InputError: there are none, some are missing, or some have no part in next-token prediction.
    """
    present = {block for name in shapes if (block := block_of(name)) is not None}
    if not present:
        raise InputError(
            f"{label} holds no Transformer blocks (tensors named {block_tensor(0, '*', '')} and so on); give the GGUF "
            "file of a decoder."
        )
    stated = get(Keys.LLM.BLOCK_COUNT)
    count = stated if isinstance(stated, int) and stated > max(present) else max(present) + 1
    check_blocks(count, len(shapes), label)
    if present != set(range(count)):
        missing = min(set(range(count)) - present)
        raise InputError(f"{label} lacks the block {missing} of {count}; fetch the whole model.")
    if get(Keys.LLM.NEXTN_PREDICT_LAYERS):
        raise InputError(
            f"{label} has blocks that predict several tokens ahead (nextn_predict_layers), which cannot be measured; "
            "convert the model without them."
        )
    bare = present - {block_of(name) for name, shape in shapes.items() if is_encoded(name, shape)}
    if bare:
        raise InputError(f"The block {min(bare)} of {label} holds no matrix to quantise; give a dense decoder.")
    return count
