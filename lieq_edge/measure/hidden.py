"""Hidden states between blocks, kept in files while a pass over the blocks needs them again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from ..files import check_space


class HiddenFiles:
    """Float32 tensors of one shape in a temporary folder; a ``with`` block removes them all.

    A pass forward puts the input of every block, the pass backward takes them in reverse. Files keep the memory of
    that at one block's worth, whatever the depth of the model.
    """

    def __init__(self, count: int, shape: torch.Size) -> None:
        """Make room for ``count`` tensors.

        Raises:
            InputError: the folder for temporary files is too full.
        """
        self._shape = shape
        self._folder = tempfile.TemporaryDirectory(prefix="lieq-hidden.")
        try:
            check_space(Path(self._folder.name), 4 * count * shape.numel())
        except BaseException:
            self._folder.cleanup()
            raise

    def put(self, index: int, hidden: Tensor) -> None:
        """Store tensor ``index``."""
        hidden.numpy().tofile(self._path(index))

    def look(self, index: int) -> Tensor:
        """Read tensor ``index``."""
        return torch.from_numpy(np.fromfile(self._path(index), np.float32).reshape(self._shape))

    def take(self, index: int) -> Tensor:
        """Read tensor ``index`` and remove it."""
        values = self.look(index)
        self._path(index).unlink()
        return values

    def _path(self, index: int) -> Path:
        return Path(self._folder.name) / str(index)

    def __enter__(self) -> HiddenFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()
