"""Names of tensors in a GGUF file: ``blk.3.attn_q.weight`` is block 3, role ``attn_q``, suffix ``weight``.

Every other module asks here; none takes names apart or puts them together by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = "blk."
_NAME = re.compile(r"(?:blk\.(?P<block>[0-9]{1,9})\.)?(?P<role>.+?)(?:\.(?P<suffix>weight|bias|scale))?", re.DOTALL)

EMBEDDING = "token_embd.weight"
"""The table that tokens are looked up in; of a tied model also the head."""

HEAD = "output.weight"
"""The matrix that makes the logits, where it is not tied to the embedding."""

InputGroup = tuple[str, ...]
"""GGUF names of matrices that share their input, in the order in which the block runs them."""


@dataclass(frozen=True, slots=True)
class TensorName:
    """The parts of a name.

    Attributes:
        block: 0-based; None for a tensor outside the blocks.
        role: what the tensor is in its block, e.g. ``attn_q`` or ``ffn_down_exps``.
        suffix: ``weight``, ``bias``, ``scale``, or nothing.
    """

    block: int | None
    role: str
    suffix: str = "weight"

    @classmethod
    def parse(cls, name: str) -> TensorName:
        """The parts of ``name``; any text has some, e.g. an unknown one is all role."""
        match = _NAME.fullmatch(name)
        if match is None:
            return cls(None, name, "")
        block = match["block"]
        return cls(None if block is None else int(block), match["role"], match["suffix"] or "")

    def __str__(self) -> str:
        start = "" if self.block is None else f"{_PREFIX}{self.block}."
        end = f".{self.suffix}" if self.suffix else ""
        return f"{start}{self.role}{end}"

    @property
    def is_weight(self) -> bool:
        """It ends in ``.weight``."""
        return self.suffix == "weight"


def block_tensor(block: int, role: str, suffix: str = "weight") -> str:
    """The name of a tensor of a block, e.g. ``blk.3.attn_q.weight``."""
    return str(TensorName(block, role, suffix))


def block_of(name: str) -> int | None:
    """The block that a tensor belongs to; None outside the blocks."""
    return TensorName.parse(name).block
