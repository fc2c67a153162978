"""ggml blocks unpacked into scales, mins and integer codes, and packed again.

``pack(unpack(packed, type_name))`` gives the same bytes. Vectorised numpy over all blocks of a tensor.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from .grid import Grid
from .layouts import LAYOUTS, Layout

__all__ = ["LAYOUTS", "Grid", "Layout", "layout_of", "pack", "unpack"]


def layout_of(type_name: str) -> Layout:
    """The block layout of a ggml type.

    Raises:
        InputError: the type has no codes to choose (floats).
    """
    try:
        return LAYOUTS[type_name]
    except KeyError:
        known = ", ".join(LAYOUTS)
        raise InputError(f"The type {type_name} has no codes to choose; choose one of {known}.") from None


def unpack(packed: npt.NDArray[np.uint8], type_name: str) -> Grid:
    """Unpack rows of ggml blocks.

    Args:
        packed: uint8 ``(rows, bytes of a row)``.
        type_name: ggml's name of the type.
    """
    layout = layout_of(type_name)
    rows = len(packed)
    blocks = np.ascontiguousarray(packed).reshape(-1, layout.block_bytes)
    scale_codes = min_codes = None
    if layout.book is not None:
        words = layout.book.read(blocks)
        codes, stored = layout.book.codes(words), words.scales
    else:
        codes = np.zeros((len(blocks), layout.block), np.uint8)
        for plane in layout.planes:
            codes |= plane.read(blocks)
        if layout.flip:
            codes ^= np.uint8(layout.flip)
        if layout.scales is not None:
            stop = layout.scales_at + layout.scales.size
            stored = np.ascontiguousarray(blocks[:, layout.scales_at : stop])
    if layout.scales is not None:
        scale_codes, min_codes = layout.scales.read(stored)
        scale_codes = scale_codes.reshape(rows, -1)
        min_codes = min_codes.reshape(rows, -1) if min_codes is not None else None
    return Grid(
        type_name,
        codes.reshape(rows, -1),
        _read_half(blocks, layout.d).reshape(rows, -1),
        _read_half(blocks, layout.m).reshape(rows, -1) if layout.m is not None else None,
        scale_codes,
        min_codes,
    )


def pack(grid: Grid) -> npt.NDArray[np.uint8]:
    """Pack rows into ggml's blocks; uint8 ``(rows, bytes of a row)``."""
    layout = grid.layout
    rows = len(grid.codes)
    codes = np.ascontiguousarray(grid.codes).reshape(-1, layout.block)
    blocks = np.empty((len(codes), layout.block_bytes), np.uint8)
    if layout.flip:
        codes = codes ^ np.uint8(layout.flip)
    for plane in layout.planes:
        plane.write(codes, blocks)
    _write_half(blocks, layout.d, grid.d)
    if layout.m is not None:
        assert grid.m is not None
        _write_half(blocks, layout.m, grid.m)
    if layout.scales is not None:
        assert grid.scale_codes is not None
        scale_codes = grid.scale_codes.reshape(len(blocks), -1)
        min_codes = grid.min_codes.reshape(len(blocks), -1) if grid.min_codes is not None else None
        stored = layout.scales.write(scale_codes, min_codes)
        if layout.book is not None:
            layout.book.write(layout.book.words(codes, stored), blocks)
        else:
            blocks[:, layout.scales_at : layout.scales_at + layout.scales.size] = stored
    return blocks.reshape(rows, -1)


def _read_half(blocks: npt.NDArray[np.uint8], start: int) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2")


def _write_half(blocks: npt.NDArray[np.uint8], start: int, values: npt.NDArray[np.float16]) -> None:
    blocks[:, start : start + 2] = np.ascontiguousarray(values, "<f2").reshape(-1, 1).view(np.uint8)
