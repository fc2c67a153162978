"""A scale search for Q2_0, because ggml's own encoder takes the largest weight as the scale.

Q2_0 stores ``d * {-1, 0, 1, 2}`` for 64 weights. ggml's ``quantize_row_q2_0_ref`` sets d = max |w|, which rounds nearly
every weight to zero. Here d, of either sign, minimises the weighted squared error: each of many initial values gives
the nearest codes, and these give the least-squares scale.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..gguf.blocks import Grid, pack

Floats = npt.NDArray[np.float32]

# Initial values of d as shares of the largest magnitude. The smallest clip most of the range, as heavy-tailed blocks
# need.
_STARTS = np.concatenate([np.linspace(0.12, 0.75, 22), np.linspace(0.8, 1.0, 4)]).astype(np.float32)
_REFITS = 3
_BLOCK = 64
# Blocks that are searched together: few enough that the temporaries stay in the cache.
_CHUNK = 2048


def search_grid(weights: Floats, importance: Floats | None = None) -> Grid:
    """Scales and nearest codes of Q2_0 that minimise the importance-weighted squared error.

    As in ggml's encoders of other types, an error counts ``importance * sqrt(mean(w^2) + w^2)``, with the mean over the
    row.

    Args:
        weights: float32 ``(rows, columns)``, columns a multiple of 64.
        importance: float32 ``(columns,)``, or None if all columns are equally important.
    """
    rows, columns = weights.shape
    emphasis = np.sqrt(np.mean(np.square(weights), axis=1, keepdims=True) + np.square(weights))
    if importance is not None:
        emphasis *= importance
    values = np.ascontiguousarray(weights, np.float32).reshape(-1, _BLOCK)
    emphasis = emphasis.reshape(-1, _BLOCK)
    d = np.empty((len(values), 1), np.float16)
    codes = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        d[part] = _search(values[part], emphasis[part])
        codes[part] = nearest_codes(values[part], d[part].astype(np.float32))
    return Grid("Q2_0", codes.reshape(rows, columns), d.reshape(rows, -1))


def encode_q2_0(weights: Floats, importance: Floats | None = None) -> npt.NDArray[np.uint8]:
    """Packed Q2_0 rows, uint8 ``(rows, bytes of a row)``; arguments as in ``search_grid``."""
    return pack(search_grid(weights, importance))


def nearest_codes(values: Floats, d: Floats) -> npt.NDArray[np.uint8]:
    """Codes 0..3 (levels -1..2) nearest to ``values / d``; level 0 where d is 0."""
    return (_levels(values, d) + 1).astype(np.uint8)


def _levels(values: Floats, d: Floats) -> Floats:
    safe = np.where(d == 0, np.float32(1), d)
    return np.clip(np.rint(values / safe), -1, 2) * (d != 0)


def _search(values: Floats, emphasis: Floats) -> npt.NDArray[np.float16]:
    largest = np.abs(values).max(axis=1, keepdims=True)
    weighted = emphasis * values
    best_gain = np.zeros((len(values), 1), np.float32)
    best = np.zeros((len(values), 1), np.float32)

    def consider(d: Floats) -> Floats:
        nonlocal best_gain, best
        levels = _levels(values, d)
        cross = np.sum(weighted * levels, axis=1, keepdims=True)
        energy = np.sum(emphasis * levels * levels, axis=1, keepdims=True)
        safe = np.where(energy == 0, np.float32(1), energy)
        fitted: Floats = cross / safe
        # With the least-squares scale the error is sum(e w^2) - cross^2 / energy.
        gain = fitted * cross
        better = gain > best_gain
        best_gain = np.where(better, gain, best_gain)
        best = np.where(better, fitted, best)
        return fitted

    for share in _STARTS:
        consider(largest * share)
        consider(largest * -share)
    current = best
    for _ in range(_REFITS):
        current = consider(current)
    return best.astype(np.float16)
