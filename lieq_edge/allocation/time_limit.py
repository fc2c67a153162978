"""A bound on the time of a token of an answer, which types have to keep as well as a budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..device.pace import Matrix, Pace, Work, block_seconds, decode_seconds, predict_pace
from ..device.profile import Profile
from .plan import TensorPlan


@dataclass(frozen=True)
class TimeLimit:
    """Least speed of an answer on a device.

    Attributes:
        profile: the device.
        work: which weights of the model a token is multiplied with.
        min_tps: tokens a second; None bounds nothing, and the speed is predicted only.
    """

    profile: Profile
    work: Work
    min_tps: float | None

    @property
    def seconds(self) -> float:
        """Seconds that a token may spend in matrices; may be below 0."""
        assert self.min_tps is not None
        return 1 / self.min_tps - block_seconds(self.profile, self.work)

    def of(self, tensors: Iterable[TensorPlan]) -> float:
        """Seconds that a token spends in some tensors."""
        return sum(decode_seconds(self.profile, _matrix(tensor), self.work) for tensor in tensors)

    def pace(self, tensors: Iterable[TensorPlan]) -> Pace:
        """Predicted speed of a whole file."""
        return predict_pace(self.profile, map(_matrix, tensors), self.work)


def _matrix(tensor: TensorPlan) -> Matrix:
    return Matrix(tensor.name, tensor.shape, tensor.type)
