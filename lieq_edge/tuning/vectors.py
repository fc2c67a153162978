"""Norms and biases of a file, which are float32 there, as trained numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..sources.base import Array

ToModule = Callable[[str, Array], Tensor]
"""Makes the module's parameter from a GGUF name and the file's values."""


class TunedVector:
    """A norm or a bias; its parameter is the change relative to the vector's mean absolute value.

    Attributes:
        change: parameter, ``(length,)``.
    """

    def __init__(
        self, to_module: ToModule, name: str, values: npt.NDArray[np.float32], owner: nn.Module, attribute: str
    ) -> None:
        """Find how the module's parameter follows from the file's vector.

        Args:
            to_module: see ``ToModule``.
            name: GGUF name.
            values: values in the file, float32 ``(length,)``.
            owner: module that has the parameter.
            attribute: name of the parameter there.
        """
        # Layouts reorder vectors and add constants (Gemma's norms).
        numbers = np.arange(len(values), dtype=np.float32)
        self._shift = to_module(name, np.zeros_like(values))
        self._order = (to_module(name, numbers) - self._shift).round().long()
        self._first = torch.from_numpy(values.copy())
        self._unit = max(float(self._first.abs().mean()), 1e-6)
        self._owner, self._attribute = owner, attribute
        self.change = torch.zeros_like(self._first)

    @property
    def values(self) -> Tensor:
        """Present values as the file has them, float32 ``(length,)``."""
        return self._first + self.change * self._unit

    def put(self, *, trained: bool) -> None:
        """Give the module the present values; ``trained`` lets them receive a gradient."""
        value = self.values[self._order.flatten()].view(self._order.shape) + self._shift
        setattr(self._owner, self._attribute, nn.Parameter(value, requires_grad=trained))

    def take_slope(self) -> Tensor | None:
        """Gradient at ``change`` since the last ``put``; None if there is none."""
        gradient = getattr(self._owner, self._attribute).grad
        if gradient is None:
            return None
        slope = torch.zeros_like(self.change)
        return slope.index_add_(0, self._order.flatten(), gradient.float().flatten()).mul_(self._unit)
