"""The picture of bits by block and role, and the bytes of each role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ..gguf.names import HEAD
from ..gguf.types import TYPES
from ..pipeline.report import TensorReport
from ..system.units import size_text

# Colours of the style sheet, by the nominal bits from which they count.
_SHADES = (2, 3, 4, 5, 6, 8, 16, 32)

_PLAIN = {
    "attn_q": "query",
    "attn_k": "key",
    "attn_v": "value",
    "attn_qkv": "query, key and value",
    "attn_output": "attention output",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
    "ffn_gate_exps": "gates of the experts",
    "ffn_up_exps": "ups of the experts",
    "ffn_down_exps": "downs of the experts",
}
_OTHERS = "norms, biases and other small tensors"


@dataclass(frozen=True)
class Cell:
    """A matrix in the picture.

    Attributes:
        block: its row, or column.
        place: number of its role.
        bits: nominal bits.
        shade: colour, one of ``_SHADES``.
        type: name of the ggml type.
        title: sentence about it.
    """

    block: int
    place: int
    bits: int
    shade: int
    type: str
    title: str


@dataclass(frozen=True)
class Kind:
    """A ggml type in the legend, with the number of matrices that have it, and their bytes."""

    type: str
    shade: int
    bits: int
    count: int
    nbytes: int


@dataclass(frozen=True)
class HeatMap:
    """Bits of every matrix of the blocks.

    Attributes:
        roles: the usual ones in the order in which a block runs them, then others in that of the file.
        blocks: number of blocks.
        cells: one a matrix.
        kinds: types, of the least bits first.
        description: what the picture shows, in words.
    """

    roles: tuple[str, ...]
    blocks: int
    cells: tuple[Cell, ...]
    kinds: tuple[Kind, ...]
    description: str

    def rows(self) -> list[list[Cell | None]]:
        """The cells block by block, None where a block lacks a role."""
        rows: list[list[Cell | None]] = [[None] * len(self.roles) for _ in range(self.blocks)]
        for cell in self.cells:
            rows[cell.block][cell.place] = cell
        return rows


@dataclass(frozen=True)
class Segment:
    """The part of a role's bytes that is in one type."""

    type: str
    shade: int
    nbytes: int
    count: int


@dataclass(frozen=True)
class RoleBytes:
    """What a role takes of the file.

    Attributes:
        role: GGUF role.
        plain: the role in words; empty where there are none.
        nbytes: bytes of all tensors of the role.
        segments: the same by type, of the most bits first.
        predicted_loss: sum of their predicted losses, nats a token; None where none is predicted.
    """

    role: str
    plain: str
    nbytes: int
    segments: tuple[Segment, ...]
    predicted_loss: float | None


def heat_map(tensors: Sequence[TensorReport]) -> HeatMap | None:
    """The picture of a file's blocks; None where nothing is known of its tensors."""
    inside = [tensor for tensor in tensors if tensor.block is not None and tensor.is_matrix]
    if not inside:
        return None
    order = list(_PLAIN)
    roles = tuple(
        sorted(
            dict.fromkeys(tensor.role for tensor in inside),
            key=lambda role: order.index(role) if role in order else len(order),
        )
    )
    cells = tuple(
        Cell(
            tensor.block or 0,
            roles.index(tensor.role),
            _bits(tensor),
            _shade(tensor),
            tensor.type,
            f"{tensor.name}: {tensor.type}, {8 * tensor.nbytes / prod(tensor.shape):.2f} bits a weight, "
            f"{size_text(tensor.nbytes)}",
        )
        for tensor in inside
    )
    blocks = 1 + max(cell.block for cell in cells)
    kinds = _kinds(inside)
    counts = ", ".join(f"{kind.count} in {kind.type}" for kind in kinds)
    description = f"{len(cells)} matrices of {blocks} blocks and {len(roles)} roles: {counts}."
    return HeatMap(roles, blocks, cells, kinds, description)


def bytes_by_role(tensors: Sequence[TensorReport]) -> tuple[RoleBytes, ...]:
    """Bytes of every role, the largest first; norms and the like are one entry at the end."""
    members: dict[str, list[TensorReport]] = {}
    for tensor in tensors:
        members.setdefault(tensor.role if tensor.is_matrix else "", []).append(tensor)
    tied = not any(tensor.name == HEAD for tensor in tensors)
    plain = {
        **_PLAIN,
        "output": "output head",
        "token_embd": "token embedding, also the output head" if tied else "token embedding",
    }
    roles = []
    for role, some in members.items():
        losses = [tensor.predicted_loss for tensor in some if tensor.predicted_loss is not None]
        segments = tuple(Segment(kind.type, kind.shade, kind.nbytes, kind.count) for kind in reversed(_kinds(some)))
        roles.append(
            RoleBytes(
                role,
                plain.get(role, "") if role else _OTHERS,
                sum(tensor.nbytes for tensor in some),
                segments,
                sum(losses) if losses else None,
            )
        )
    return tuple(sorted(roles, key=lambda entry: (not entry.role, -entry.nbytes)))


def loss_by_block(tensors: Sequence[TensorReport]) -> tuple[float, ...]:
    """Predicted loss of each block, nats a token; empty where none is predicted."""
    known = [(t.block, t.predicted_loss) for t in tensors if t.block is not None and t.predicted_loss is not None]
    if not known:
        return ()
    losses = [0.0] * (1 + max(block for block, _ in known))
    for block, loss in known:
        losses[block] += loss
    return tuple(losses)


def _kinds(tensors: Sequence[TensorReport]) -> tuple[Kind, ...]:
    counts = Counter(tensor.type for tensor in tensors)
    sizes: Counter[str] = Counter()
    first: dict[str, TensorReport] = {}
    for tensor in tensors:
        sizes[tensor.type] += tensor.nbytes
        first.setdefault(tensor.type, tensor)
    kinds = [Kind(name, _shade(one), _bits(one), counts[name], sizes[name]) for name, one in first.items()]
    return tuple(sorted(kinds, key=lambda kind: (first[kind.type].nbytes / prod(first[kind.type].shape), kind.type)))


def _bits(tensor: TensorReport) -> int:
    """Nominal bits; of a type that is only copied, its whole bits a weight."""
    kind = TYPES.get(tensor.type)
    return kind.bits if kind is not None else int(8 * tensor.nbytes / prod(tensor.shape))


def _shade(tensor: TensorReport) -> int:
    return max((shade for shade in _SHADES if shade <= _bits(tensor)), default=_SHADES[0])
