"""Errors of scores and of paired differences, against numbers by hand and the harness's own formula."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from lieq_edge.errors import InputError
from lieq_edge.tasks.paired import Measured, pool, score


def measured(items: Sequence[float], **others: object) -> Measured:
    fields = {"task": "t", "metric": "acc", "higher_is_better": True, "documents": range(len(items)), **others}
    return Measured(items=items, **fields)  # type: ignore[arg-type]


def test_the_paired_error_is_that_of_the_differences() -> None:
    # Differences: 0, -1, 0, +1, -1; mean -0.2, squared deviations 0.04 + 0.64 + 0.04 + 1.44 + 0.64 = 2.8.
    row = score(measured([1, 0, 1, 1, 0]), measured([1, 1, 1, 0, 1]))
    assert (row.value, row.reference) == (0.6, 0.8)
    assert row.difference == pytest.approx(-0.2)
    assert row.difference_error == pytest.approx(math.sqrt(2.8 / 4 / 5))
    assert (row.better, row.worse, row.items) == (1, 2, 5)
    # 0.6 of 5: squared deviations 3 * 0.16 + 2 * 0.36 = 1.2.
    assert row.error == pytest.approx(math.sqrt(1.2 / 4 / 5))


def test_two_models_that_agree_on_all_items_differ_by_nothing_for_certain() -> None:
    row = score(measured([1, 0, 1]), measured([1, 0, 1]))
    assert (row.difference, row.difference_error, row.better, row.worse) == (0, 0, 0, 0)


def test_errors_of_means_are_those_of_the_harness() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    items = [0, 1, 1, 0, 1, 1, 1, 0.5]
    assert score(measured(items), None).error == pytest.approx(metrics.mean_stderr(items))


def test_other_metrics_are_resampled_in_pairs() -> None:
    def perplexity(items: Sequence[float]) -> float:
        return math.exp(-sum(items) / len(items))

    theirs = [-1.0, -2.0, -3.0, -1.5, -0.5, -2.5, -4.0, -0.1] * 4
    mine = [value - 0.01 for value in theirs]
    row = score(
        measured(mine, metric="perplexity", higher_is_better=False, combine=perplexity),
        measured(theirs, metric="perplexity", higher_is_better=False, combine=perplexity),
    )
    assert row.value == pytest.approx(perplexity(mine))
    assert row.worse == 0
    assert row.better == len(mine)  # lower is better, and so it is on every item
    assert row.difference_error is not None
    assert row.error is not None
    # Both models find the same items hard, so the difference is known far better than either value.
    assert row.difference_error < 0.05 * row.error


def test_one_item_has_no_error() -> None:
    assert score(measured([1]), None).error is None


def test_items_have_to_be_the_same() -> None:
    with pytest.raises(InputError, match="item by item"):
        score(measured([1, 0], documents=[0, 1]), measured([1, 0], documents=[0, 2]))


def test_a_group_counts_all_items_of_its_tasks() -> None:
    parts = [
        measured([1, 1, 0], task="a"),
        measured([0], task="b"),
        measured([1], task="b", metric="ppl", combine=sum),
    ]
    (pooled,) = pool(parts, "g")
    assert (pooled.task, pooled.metric, pooled.value, len(pooled.documents)) == ("g", "acc", 0.5, 4)
