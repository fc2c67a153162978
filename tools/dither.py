"""Move the weights of a quantised GGUF file off its grid, by seeded uniform noise of up to half a step.

    python -m tools.widen model.gguf dithered.gguf --dither 0

A reference that was decoded from 4 bits loses nearly nothing when it is stored in 4 bits again. Noise of the size of
the source's rounding error gives the weights values between the steps, like those of the original model.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from lieq_edge.errors import InputError
from lieq_edge.gguf.blocks import unpack
from lieq_edge.gguf.header import StoredTensor, read_header, type_name
from lieq_edge.sources.base import Array, Source
from tools.wrapped import Wrapped

_FLOATS = ("F32", "F16", "BF16")


class Dithered(Wrapped):
    """A GGUF source with noise; tensors stored as floats and weights whose step is 0 do not change."""

    def __init__(self, base: Source, path: Path, seed: int) -> None:
        """Wrap ``base``, the source of the GGUF file ``path``."""
        super().__init__(base, f"dithered, seed {seed}")
        self._file = path
        self._seed = seed
        self._stored = {tensor.name: tensor for tensor in read_header(path).tensors}

    def read(self, name: str) -> Array:
        weights = super().read(name)
        stored = self._stored.get(name)
        if stored is None or type_name(stored.type) in _FLOATS:
            return weights
        # The noise depends on the tensor's name, not on the order of reading.
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        noise = rng.random(weights.shape, np.float32) - np.float32(0.5)
        return weights + noise * steps(self._file, stored)


def steps(path: Path, tensor: StoredTensor) -> Array:
    """The distance between neighbouring values of each weight's block, shaped as the tensor.

    Raises:
        InputError: the type's values are not evenly spaced.
    """
    kind = type_name(tensor.type)
    packed = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.nbytes,))
    columns = tensor.shape[-1]
    rows = int(np.prod(tensor.shape)) // columns
    grid = unpack(np.asarray(packed).reshape(rows, -1), kind)
    if not grid.layout.is_linear:
        raise InputError(f"{tensor.name} is stored as {kind}, whose steps are uneven; choose another source file.")
    return np.repeat(np.abs(grid.scales()), grid.layout.sub, axis=1).reshape(tensor.shape)
