"""Names of tensors in a GGUF file: ``blk.3.attn_q.weight`` is block 3, role ``attn_q``, suffix ``weight``.

All other modules parse and build names by these functions, never by string operations of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = "blk."
_NAME = re.compile(r"(?:blk\.(?P<block>[0-9]{1,9})\.)?(?P<role>.+?)(?:\.(?P<suffix>weight|bias|scale))?", re.DOTALL)

EMBEDDING = "token_embd.weight"
"""The token embedding; in a tied model also the head."""

HEAD = "output.weight"
"""The matrix that computes the logits, unless it is tied to the embedding."""

POSITIONS = "position_embd.weight"
"""The table of learned positions."""

InputGroup = tuple[str, ...]
"""GGUF names of matrices that share their input, in the order in which the block runs them."""


@dataclass(frozen=True, slots=True)
class TensorName:
    """The parts of a tensor's name.

    Attributes:
        block: 0-based; None for a tensor outside the blocks.
        role: what the tensor is in its block, e.g. ``attn_q`` or ``ffn_down_exps``.
        suffix: ``weight``, ``bias``, ``scale``, or empty.
    """

    block: int | None
    role: str
    suffix: str = "weight"

    @classmethod
    def parse(cls, name: str) -> TensorName:
        """The parts of ``name``; a name of unknown form is all role."""
        match = _NAME.fullmatch(name)
        if match is None:
            return cls(None, name, "")
        block = match["block"]
        return cls(None if block is None else int(block), match["role"], match["suffix"] or "")

    def __str__(self) -> str:
        prefix = "" if self.block is None else f"{_PREFIX}{self.block}."
        suffix = f".{self.suffix}" if self.suffix else ""
        return f"{prefix}{self.role}{suffix}"

    @property
    def is_weight(self) -> bool:
        """True if the name ends in ``.weight``."""
        return self.suffix == "weight"


def block_tensor(block: int, role: str, suffix: str = "weight") -> str:
    """The name of a tensor of a block, e.g. ``blk.3.attn_q.weight``."""
    return str(TensorName(block, role, suffix))


def block_of(name: str) -> int | None:
    """The block that a tensor belongs to; None outside the blocks."""
    return TensorName.parse(name).block
