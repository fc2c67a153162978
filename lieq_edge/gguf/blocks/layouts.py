"""The block layouts of ggml's types as data (source: ``ggml-common.h`` and ``ggml-quants.c`` of llama.cpp)."""

from __future__ import annotations

from dataclasses import dataclass

from ..types import TYPES
from .bits import INT8, NIBBLES, ODD, SIX_APART, SIX_PAIRS, SIX_SIGNED, Plane, ScaleBits
from .books import IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, Book

IQ4_NL_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""``kvalues_iq4nl``."""


@dataclass(frozen=True)
class Layout:
    """Where a block of one type stores its fields; a weight is ``scale * level[code] - min``.

    Attributes:
        type_name: ggml's name.
        sub: weights that share a scale.
        levels: value of each code, ascending.
        d: first byte of the fp16 (super-)scale.
        planes: where the bits of the codes are; none if a codebook has them.
        m: first byte of the fp16 (super-)min, None for types without mins.
        min_sign: +1 if the stored min is subtracted (K-quants), -1 if it is added (Q4_1, Q5_1).
        scales: format of the integer scales and mins of sub-blocks; None if the block has only ``d`` and ``m``.
        scales_at: first byte of these.
        flip: bits of a stored code that are inverted (Q8_0 stores two's complement).
        lowest_code: the smallest code that an encoder may use.
        book: codebook of types that store vectors of codes; it also stores the integer scales.
    """

    type_name: str
    sub: int
    levels: tuple[float, ...]
    d: int
    planes: tuple[Plane, ...]
    m: int | None = None
    min_sign: int = 1
    scales: ScaleBits | None = None
    scales_at: int = 0
    flip: int = 0
    lowest_code: int = 0
    book: Book | None = None

    @property
    def block(self) -> int:
        """Weights in a block."""
        return TYPES[self.type_name].block

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return TYPES[self.type_name].block_bytes

    @property
    def is_linear(self) -> bool:
        """True if neighbouring levels differ by one."""
        return self.levels[-1] - self.levels[0] == len(self.levels) - 1


def _span(bits: int, lowest: int = 0) -> tuple[int, ...]:
    return tuple(range(lowest, lowest + (1 << bits)))


def _of_book(book: Book, sub: int) -> Layout:
    return Layout(book.type_name, sub, book.levels, 0, (), scales=ODD, book=book)


_ALL = (
    Layout("Q2_K", 16, _span(2), 80, (Plane(16, 64, 32, 2),), m=82, scales=NIBBLES),
    Layout(
        "Q3_K",
        16,
        _span(3, -4),
        108,
        (Plane(32, 64, 32, 2), Plane(0, 32, 32, 1, 2)),
        scales=SIX_SIGNED,
        scales_at=96,
    ),
    Layout("Q4_K", 32, _span(4), 0, (Plane(16, 128, 32, 4),), m=2, scales=SIX_PAIRS, scales_at=4),
    Layout(
        "Q5_K",
        32,
        _span(5),
        0,
        (Plane(48, 128, 32, 4), Plane(16, 32, 32, 1, 4)),
        m=2,
        scales=SIX_PAIRS,
        scales_at=4,
    ),
    Layout(
        "Q6_K",
        16,
        _span(6, -32),
        208,
        (Plane(0, 128, 64, 4), Plane(128, 64, 32, 2, 4)),
        scales=INT8,
        scales_at=192,
    ),
    Layout("Q4_0", 32, _span(4, -8), 0, (Plane(2, 16, 16, 4),)),
    Layout("Q4_1", 32, _span(4), 0, (Plane(4, 16, 16, 4),), m=2, min_sign=-1),
    Layout("Q5_0", 32, _span(5, -16), 0, (Plane(6, 16, 16, 4), Plane(2, 4, 1, 1, 4))),
    Layout("Q5_1", 32, _span(5), 0, (Plane(8, 16, 16, 4), Plane(4, 4, 1, 1, 4)), m=2, min_sign=-1),
    # ggml's encoder never writes -128.
    Layout("Q8_0", 32, _span(8, -128), 0, (Plane(2, 32, 1, 8),), flip=128, lowest_code=1),
    Layout("IQ4_NL", 32, IQ4_NL_LEVELS, 0, (Plane(2, 16, 16, 4),)),
    Layout("IQ4_XS", 32, IQ4_NL_LEVELS, 0, (Plane(8, 128, 16, 4),), scales=SIX_APART, scales_at=2),
    Layout("Q2_0", 64, _span(2, -1), 0, (Plane(2, 16, 1, 2),)),
    _of_book(IQ2_XXS, 32),
    _of_book(IQ2_XS, 16),
    _of_book(IQ2_S, 16),
    _of_book(IQ3_XXS, 32),
    _of_book(IQ3_S, 32),
)

LAYOUTS: dict[str, Layout] = {layout.type_name: layout for layout in _ALL}
"""The layout of every type whose codes can be chosen, by ggml's name."""
