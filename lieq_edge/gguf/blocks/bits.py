"""Small integers in bytes: the bit planes of ggml's blocks and its formats for the scales of sub-blocks.

All functions work on many blocks at once, one block per row. Each ``write`` is the inverse of its ``read``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Plane:
    """A range of bytes that holds some bits of every code of a block.

    A byte holds parts of ``8 / bits`` codes that are ``width`` apart; ``width`` adjacent bytes hold adjacent codes.

    Attributes:
        start: first byte in the block.
        size: number of bytes.
        width: distance between the codes that share a byte.
        bits: number of bits of each code.
        shift: position of these bits in the code.
    """

    start: int
    size: int
    width: int
    bits: int
    shift: int = 0

    @property
    def stop(self) -> int:
        """First byte after the plane."""
        return self.start + self.size

    def _shifts(self) -> Bytes:
        return np.arange(0, 8, self.bits, dtype=np.uint8)[:, None]

    def read(self, blocks: Bytes) -> Bytes:
        """This plane's bits of the codes, shifted into place, uint8 ``(blocks, codes)``."""
        grouped = blocks[:, self.start : self.stop].reshape(len(blocks), -1, 1, self.width)
        parts = (grouped >> self._shifts()) & np.uint8((1 << self.bits) - 1)
        return (parts << np.uint8(self.shift)).reshape(len(blocks), -1)

    def write(self, codes: Bytes, blocks: Bytes) -> None:
        """Store this plane's bits of ``codes`` (uint8 ``(blocks, codes)``) in ``blocks``."""
        parts = (codes >> np.uint8(self.shift)) & np.uint8((1 << self.bits) - 1)
        grouped = parts.reshape(len(blocks), -1, 8 // self.bits, self.width) << self._shifts()
        packed = np.bitwise_or.reduce(grouped, axis=2)
        blocks[:, self.start : self.stop] = packed.reshape(len(blocks), -1)


@dataclass(frozen=True)
class ScaleBits:
    """How a super-block stores the integer scales (and mins) of its sub-blocks.

    Attributes:
        size: number of bytes; 0 if the codebook has them.
        lowest, highest: range of an integer scale, and of an integer min if the type has mins.
        read: bytes ``(blocks, size)`` -> scales and mins (or None), int16 ``(blocks, sub-blocks)``.
        write: the inverse of ``read``.
        step: distance between neighbouring integers.
    """

    size: int
    lowest: int
    highest: int
    read: Callable[[Bytes], tuple[Codes, Codes | None]]
    write: Callable[[Codes, Codes | None], Bytes]
    step: int = 1


def _read_nibbles(packed: Bytes) -> tuple[Codes, Codes | None]:
    return (packed & 15).astype(np.int16), (packed >> 4).astype(np.int16)


def _write_nibbles(scales: Codes, mins: Codes | None) -> Bytes:
    assert mins is not None
    return (scales | (mins << 4)).astype(np.uint8)


def _read_six_pairs(packed: Bytes) -> tuple[Codes, Codes | None]:
    scales, mins, upper = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    late_scales = (upper & 15) | ((scales >> 6) << 4)
    late_mins = (upper >> 4) | ((mins >> 6) << 4)
    return (
        np.concatenate([scales & 63, late_scales], axis=1).astype(np.int16),
        np.concatenate([mins & 63, late_mins], axis=1).astype(np.int16),
    )


def _write_six_pairs(scales: Codes, mins: Codes | None) -> Bytes:
    assert mins is not None
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = mins[:, :4] | ((mins[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1).astype(np.uint8)


def _read_six_signed(packed: Bytes) -> tuple[Codes, Codes | None]:
    lower = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    upper = np.concatenate([(packed[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    return (lower | (upper << 4)).astype(np.int16) - np.int16(32), None


def _write_six_signed(scales: Codes, mins: Codes | None) -> Bytes:
    stored = (scales + 32).astype(np.uint8)
    lower = (stored[:, :8] & 15) | ((stored[:, 8:] & 15) << 4)
    upper = np.bitwise_or.reduce(
        (stored >> 4).reshape(len(stored), 4, 4) << np.array([[0], [2], [4], [6]], np.uint8), axis=1
    )
    return np.concatenate([lower, upper], axis=1)


def _read_six_apart(packed: Bytes) -> tuple[Codes, Codes | None]:
    lower = np.stack([packed[:, 2:] & 15, packed[:, 2:] >> 4], axis=2).reshape(len(packed), 8)
    upper = ((packed[:, :2, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3).reshape(len(packed), 8)
    return (lower | (upper << 4)).astype(np.int16) - np.int16(32), None


def _write_six_apart(scales: Codes, mins: Codes | None) -> Bytes:
    stored = (scales + 32).astype(np.uint8)
    upper = (stored >> 4).reshape(len(stored), 2, 4) << np.arange(0, 8, 2, dtype=np.uint8)
    lower = (stored[:, 0::2] & 15) | ((stored[:, 1::2] & 15) << 4)
    return np.concatenate([np.bitwise_or.reduce(upper, axis=2), lower], axis=1)


def _read_int8(packed: Bytes) -> tuple[Codes, Codes | None]:
    return packed.view(np.int8).astype(np.int16), None


def _write_int8(scales: Codes, mins: Codes | None) -> Bytes:
    return scales.astype(np.int8).view(np.uint8)


def _read_odd(stored: Bytes) -> tuple[Codes, Codes | None]:
    return 2 * stored.astype(np.int16) + np.int16(1), None


def _write_odd(scales: Codes, mins: Codes | None) -> Bytes:
    return (scales >> 1).astype(np.uint8)


NIBBLES = ScaleBits(16, 0, 15, _read_nibbles, _write_nibbles)
"""Q2_K: scale in the low and min in the high four bits of a byte."""

SIX_PAIRS = ScaleBits(12, 0, 63, _read_six_pairs, _write_six_pairs)
"""Q4_K and Q5_K: eight scales and eight mins of six bits (``get_scale_min_k4``)."""

SIX_SIGNED = ScaleBits(12, -32, 31, _read_six_signed, _write_six_signed)
"""Q3_K: sixteen signed scales of six bits."""

SIX_APART = ScaleBits(6, -32, 31, _read_six_apart, _write_six_apart)
"""IQ4_XS: eight signed scales of six bits, the upper two of all before the lower four of all."""

INT8 = ScaleBits(16, -128, 127, _read_int8, _write_int8)
"""Q6_K: sixteen signed scales of a byte."""

ODD = ScaleBits(0, 1, 31, _read_odd, _write_odd, step=2)
"""IQ2 and IQ3: scales of 2 s + 1, where the codebook has read s."""
