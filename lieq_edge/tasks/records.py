"""What files score on tasks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskScore:
    """A file's score by one metric of one task, and its distance from the original on the same items.

    Attributes:
        task: name of the task.
        metric: name of the metric, with that of the filter behind a comma where the task has several of them.
        items: items that count.
        higher_is_better: a higher value is better.
        value: value of the file.
        error: its standard error over the items; None where one item gives none.
        reference: value of the original; this and all below are None without one.
        reference_error: its standard error.
        difference: value of the file less that of the original.
        difference_error: standard error of the difference, from the differences of the items: far smaller than the
            errors of both values where they mostly agree.
        better: items on which the file does better than the original.
        worse: items on which it does worse.
    """

    task: str
    metric: str
    items: int
    higher_is_better: bool
    value: float
    error: float | None
    reference: float | None = None
    reference_error: float | None = None
    difference: float | None = None
    difference_error: float | None = None
    better: int | None = None
    worse: int | None = None


@dataclass(frozen=True)
class TaskScores:
    """What a file scores on all tasks.

    Attributes:
        name: name for people.
        file_bytes: size of the file.
        reference: name of the original, or None.
        scores: one for each task and metric.
    """

    name: str
    file_bytes: int
    reference: str | None
    scores: tuple[TaskScore, ...]
