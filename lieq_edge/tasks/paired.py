"""Scores of a task from those of its items, and the paired difference of two models on the same items.

A metric that is a mean over the items (accuracy) has the standard error of a mean; the error of a difference is that of
the mean difference, ``sd(file - original) / sqrt(n)``. For other metrics (perplexity, F1) both come from a bootstrap
over the items, in which file and original get the same items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .records import TaskScore

_RESAMPLES = 200
_SEED = 0


@dataclass(frozen=True)
class Measured:
    """What one model gives for one metric of a task.

    Attributes:
        task: name of the task.
        metric: name of the metric.
        higher_is_better: a higher value is better.
        items: value of each item: a number, or whatever the metric puts together.
        documents: number of each item in the task's data.
        combine: function from the items to the value; None for the mean.
    """

    task: str
    metric: str
    higher_is_better: bool
    items: Sequence[Any]
    documents: Sequence[int]
    combine: Callable[[Sequence[Any]], float] | None = None

    @property
    def value(self) -> float:
        """The value over all items."""
        if self.combine is None:
            return float(np.mean(np.asarray(self.items, np.float64)))
        return float(self.combine(list(self.items)))


def score(own: Measured, reference: Measured | None) -> TaskScore:
    """The score of a file, with its distance from the original where there is one.

    Raises:
        InputError: both were not measured on the same items.
    """
    one = TaskScore(own.task, own.metric, len(own.items), own.higher_is_better, own.value, _error(own))
    if reference is None:
        return one
    if list(reference.documents) != list(own.documents):
        raise InputError(
            f"{own.metric} of {own.task} counts {len(own.items)} items for the file and {len(reference.items)} others "
            "for the original, so they cannot be compared item by item; leave out --reference, or choose another task."
        )
    better, worse = _counts(own, reference)
    return TaskScore(
        one.task,
        one.metric,
        one.items,
        one.higher_is_better,
        one.value,
        one.error,
        reference=reference.value,
        reference_error=_error(reference),
        difference=one.value - reference.value,
        difference_error=_difference_error(own, reference),
        better=better,
        worse=worse,
    )


def pool(parts: Sequence[Measured], task: str) -> list[Measured]:
    """The metrics of a group of tasks, over all items of those tasks that have the metric as a mean.

    Args:
        parts: all metrics of all tasks.
        task: name of the group.
    """
    pooled: dict[str, list[Measured]] = {}
    for part in parts:
        if part.combine is None:
            pooled.setdefault(part.metric, []).append(part)
    return [
        Measured(
            task,
            metric,
            ones[0].higher_is_better,
            [item for one in ones for item in one.items],
            [number for one in ones for number in one.documents],
        )
        for metric, ones in pooled.items()
    ]


def mean_error(values: Sequence[float] | npt.NDArray[np.float64]) -> float | None:
    """Standard error of the mean of independent values, by the sample's variance; None for fewer than two."""
    if len(values) < 2:
        return None
    return float(np.std(np.asarray(values, np.float64), ddof=1) / np.sqrt(len(values)))


def _error(one: Measured) -> float | None:
    if one.combine is None:
        return mean_error(one.items)
    combine = one.combine
    return _bootstrap(len(one.items), lambda chosen: float(combine([one.items[index] for index in chosen])))


def _difference_error(own: Measured, reference: Measured) -> float | None:
    if own.combine is None:
        return mean_error(np.asarray(own.items, np.float64) - np.asarray(reference.items, np.float64))
    combine = own.combine

    def difference(chosen: Sequence[int]) -> float:
        pair = ([one.items[index] for index in chosen] for one in (own, reference))
        mine, theirs = map(combine, pair)
        return float(mine - theirs)

    return _bootstrap(len(own.items), difference)


def _bootstrap(items: int, value: Callable[[Sequence[int]], float]) -> float | None:
    """Standard deviation of ``value`` over samples of the items, drawn with replacement by a fixed seed."""
    if items < 2:
        return None
    generator = np.random.default_rng(_SEED)
    values = [value(generator.integers(items, size=items).tolist()) for _ in range(_RESAMPLES)]
    return float(np.std(values, ddof=1))


def _counts(own: Measured, reference: Measured) -> tuple[int | None, int | None]:
    """Items on which the file does better and worse; None where the items are no single numbers."""
    try:
        difference = np.asarray(own.items, np.float64) - np.asarray(reference.items, np.float64)
    except (TypeError, ValueError):
        return None, None
    if difference.ndim != 1:
        return None, None
    if not own.higher_is_better:
        difference = -difference
    return int((difference > 0).sum()), int((difference < 0).sum())
