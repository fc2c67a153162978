"""The codebooks of ggml's i-quants: which vectors of codes a block can hold, and how it stores them.

A vector of 4 or 8 weights is a point of a codebook of magnitudes, and signs. Of the signs of eight weights, some types
store all; the others store seven, and the eighth makes the number of minus signs even (source: ``ggml-common.h`` and
``ggml-quants.c`` of llama.cpp; the points come from the ``gguf`` package).

As everywhere in ``blocks``, a code is the index of a weight's level, here of its signed magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from .bits import Bytes

Points = npt.NDArray[np.uint16]

_SEVENS = np.array([0, 7, 14, 21], np.uint32)
_PAIRS = np.arange(0, 8, 2, dtype=np.uint8)
_BITS = np.arange(8, dtype=np.uint8)


@dataclass(frozen=True)
class Words:
    """What blocks of such a type store.

    Attributes:
        points: index of the point of each vector, uint16 ``(blocks, vectors)``.
        signs: one bit for each of eight weights, set for a minus, uint8 ``(blocks, weights / 8)``.
        scales: stored integers s, uint8 ``(blocks, sub-blocks)``; a scale is d times 2 s + 1.
    """

    points: Points
    signs: Bytes
    scales: Bytes


@dataclass(frozen=True)
class Book:
    """A codebook and its place in a block.

    Attributes:
        type_name: ggml's name.
        size: weights of a vector.
        magnitudes: the magnitudes of weights, ascending, in the unit of ggml's decoder.
        divisor: what these are divided by to become levels.
        free_signs: False if the number of minus signs among eight weights is even.
        read: words of blocks.
        write: the inverse of ``read``, into blocks.
    """

    type_name: str
    size: int
    magnitudes: tuple[int, ...]
    divisor: int
    free_signs: bool
    read: Callable[[Bytes], Words]
    write: Callable[[Words, Bytes], None]

    @property
    def levels(self) -> tuple[float, ...]:
        """Signed levels, ascending."""
        positive = [value / self.divisor for value in self.magnitudes]
        return (*(-value for value in reversed(positive)), *positive)

    @property
    def points(self) -> Bytes:
        """Indices of the magnitudes of each point, uint8 ``(points, size)``."""
        return _points(self.type_name, self.magnitudes)

    def codes(self, words: Words) -> Bytes:
        """Codes of the weights of blocks, uint8 ``(blocks, weights)``."""
        count = len(self.magnitudes)
        magnitudes = self.points[words.points].reshape(len(words.points), -1)
        minus = np.unpackbits(words.signs, axis=1, bitorder="little").astype(bool)
        return np.where(minus, count - 1 - magnitudes, count + magnitudes).astype(np.uint8)

    def words(self, codes: Bytes, scales: Bytes) -> Words:
        """The inverse of ``codes``.

        Raises:
            ValueError: a vector is no point of the codebook, or the number of its minus signs is odd.
        """
        count = len(self.magnitudes)
        minus = codes < count
        magnitudes = np.where(minus, count - 1 - codes, codes - count)
        radix = count ** np.arange(self.size)
        found = _numbers(self.type_name, self.magnitudes)[magnitudes.reshape(len(codes), -1, self.size) @ radix]
        signs = np.packbits(minus, axis=1, bitorder="little")
        if (found < 0).any() or not (self.free_signs or _is_even(signs).all()):
            raise ValueError(f"codes that {self.type_name} cannot store")
        return Words(found.astype(np.uint16), signs, scales)


@cache
def _points(type_name: str, magnitudes: tuple[int, ...]) -> Bytes:
    from gguf import quants

    kind = getattr(quants, type_name)
    kind.init_grid()
    return np.searchsorted(magnitudes, kind.grid.reshape(-1, kind.grid.shape[-1])).astype(np.uint8)


@cache
def _numbers(type_name: str, magnitudes: tuple[int, ...]) -> npt.NDArray[np.int16]:
    """The number of each point by its digits, the first of which counts least; -1 for vectors that are no point."""
    points, count = _points(type_name, magnitudes), len(magnitudes)
    numbers = np.full(count ** points.shape[1], -1, np.int16)
    numbers[points @ (count ** np.arange(points.shape[1]))] = np.arange(len(points))
    return numbers


def _is_even(signs: Bytes) -> npt.NDArray[np.bool_]:
    return np.bitwise_xor.reduce((signs[..., None] >> _BITS) & 1, axis=-1) == 0


def _with_eighth(sevens: npt.NDArray[np.unsignedinteger]) -> Bytes:
    """Eight signs from seven."""
    low = (sevens & 127).astype(np.uint8)
    return low | np.where(_is_even(low), 0, 128).astype(np.uint8)


def _field(blocks: Bytes, start: int, stop: int, kind: str) -> npt.NDArray:
    return np.ascontiguousarray(blocks[:, start:stop]).view(kind)


def _store(blocks: Bytes, start: int, values: npt.NDArray, kind: str) -> None:
    packed = np.ascontiguousarray(values, kind).view(np.uint8).reshape(len(blocks), -1)
    blocks[:, start : start + packed.shape[1]] = packed


def _read_nibbles(packed: Bytes) -> Bytes:
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)


def _write_nibbles(values: Bytes) -> Bytes:
    return values[:, 0::2] | (values[:, 1::2] << np.uint8(4))


def _read_signs_and_scale(words: npt.NDArray[np.uint32]) -> tuple[Bytes, Bytes]:
    """Four times seven signs and a scale from each word of 32 bits."""
    signs = _with_eighth(words[:, :, None] >> _SEVENS).reshape(len(words), -1)
    return signs, (words >> 28).astype(np.uint8)


def _write_signs_and_scale(signs: Bytes, scales: Bytes) -> npt.NDArray[np.uint32]:
    sevens = (signs & 127).astype(np.uint32).reshape(len(signs), -1, 4) << _SEVENS
    return np.bitwise_or.reduce(sevens, axis=2) | (scales.astype(np.uint32) << 28)


def _read_iq2_xxs(blocks: Bytes) -> Words:
    pairs = _field(blocks, 2, 66, "<u4").reshape(len(blocks), 8, 2)
    points = np.ascontiguousarray(pairs[:, :, 0]).view(np.uint8).astype(np.uint16)
    return Words(points, *_read_signs_and_scale(pairs[:, :, 1]))


def _write_iq2_xxs(words: Words, blocks: Bytes) -> None:
    points = words.points.astype(np.uint8).view("<u4")
    _store(blocks, 2, np.stack([points, _write_signs_and_scale(words.signs, words.scales)], axis=2), "<u4")


def _read_iq2_xs(blocks: Bytes) -> Words:
    both = _field(blocks, 2, 66, "<u2")
    return Words(both & np.uint16(511), _with_eighth(both >> np.uint16(9)), _read_nibbles(blocks[:, 66:74]))


def _write_iq2_xs(words: Words, blocks: Bytes) -> None:
    _store(blocks, 2, words.points | ((words.signs & 127).astype(np.uint16) << 9), "<u2")
    blocks[:, 66:74] = _write_nibbles(words.scales)


def _read_iq2_s(blocks: Bytes) -> Words:
    upper = ((blocks[:, 66:74, None] >> _PAIRS) & 3).reshape(len(blocks), -1).astype(np.uint16)
    return Words(blocks[:, 2:34] | (upper << np.uint16(8)), blocks[:, 34:66].copy(), _read_nibbles(blocks[:, 74:82]))


def _write_iq2_s(words: Words, blocks: Bytes) -> None:
    upper = (words.points >> 8).astype(np.uint8).reshape(len(blocks), 8, 4) << _PAIRS
    blocks[:, 2:34], blocks[:, 34:66] = words.points & 255, words.signs
    blocks[:, 66:74] = np.bitwise_or.reduce(upper, axis=2)
    blocks[:, 74:82] = _write_nibbles(words.scales)


def _read_iq3_xxs(blocks: Bytes) -> Words:
    return Words(blocks[:, 2:66].astype(np.uint16), *_read_signs_and_scale(_field(blocks, 66, 98, "<u4")))


def _write_iq3_xxs(words: Words, blocks: Bytes) -> None:
    blocks[:, 2:66] = words.points
    _store(blocks, 66, _write_signs_and_scale(words.signs, words.scales), "<u4")


def _read_iq3_s(blocks: Bytes) -> Words:
    upper = ((blocks[:, 66:74, None] >> _BITS) & 1).reshape(len(blocks), -1).astype(np.uint16)
    return Words(blocks[:, 2:66] | (upper << np.uint16(8)), blocks[:, 74:106].copy(), _read_nibbles(blocks[:, 106:110]))


def _write_iq3_s(words: Words, blocks: Bytes) -> None:
    upper = (words.points >> 8).astype(np.uint8).reshape(len(blocks), 8, 8) << _BITS
    blocks[:, 2:66], blocks[:, 74:106] = words.points & 255, words.signs
    blocks[:, 66:74] = np.bitwise_or.reduce(upper, axis=2)
    blocks[:, 106:110] = _write_nibbles(words.scales)


_THREE = (8, 25, 43)
_EIGHT = (4, 12, 20, 28, 36, 44, 52, 62)
_ODD = (1, 3, 5, 7, 9, 11, 13, 15)

IQ2_XXS = Book("IQ2_XXS", 8, _THREE, 8, False, _read_iq2_xxs, _write_iq2_xxs)
IQ2_XS = Book("IQ2_XS", 8, _THREE, 8, False, _read_iq2_xs, _write_iq2_xs)
IQ2_S = Book("IQ2_S", 8, _THREE, 8, True, _read_iq2_s, _write_iq2_s)
IQ3_XXS = Book("IQ3_XXS", 4, _EIGHT, 4, False, _read_iq3_xxs, _write_iq3_xxs)
IQ3_S = Book("IQ3_S", 4, _ODD, 1, True, _read_iq3_s, _write_iq3_s)
