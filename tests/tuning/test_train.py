"""Training: the pace of its steps."""

from __future__ import annotations

from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch

from lieq_edge.tuning.train import CHOSEN_AT, Training


@pytest.mark.parametrize(("divergence", "pace"), [(4 * CHOSEN_AT, 1.0), (CHOSEN_AT, 1.0), (CHOSEN_AT / 4, 0.5), (0, 0)])
def test_a_file_near_the_original_is_trained_by_smaller_steps(divergence: float, pace: float) -> None:
    training = Training(Mock(parameters=dict), seed=0)
    training.suit(divergence)
    assert training.pace == pytest.approx(pace)


def test_late_steps_count_more_in_the_mean() -> None:
    values = torch.zeros(1)
    training = Training(Mock(parameters=lambda: {"x vector": values}), seed=0)
    for step in range(1, 51):
        training.steps = step
        training.arrays["newest x vector"].fill_(step)
        training.average()
    # The mean of 1 to n is (n + 1) / 2; with weights that grow with the number of the step it is 2/3 n.
    assert training.arrays["mean x vector"].item() == pytest.approx(2 / 3 * 50, rel=0.02)


def test_a_retreat_goes_on_from_the_best_state_at_half_the_rate() -> None:
    values = torch.zeros(1)
    student = Mock(parameters=lambda: {"x vector": values})
    training = Training(student, seed=0, steps=20)
    for kind in ("newest", "mean", "first", "second"):
        training.arrays[f"{kind} x vector"].fill_(5)
    training.retreat({"x vector": torch.ones(1)})
    assert {name: array.item() for name, array in training.arrays.items()} == {
        "newest x vector": 1,
        "mean x vector": 1,
        "first x vector": 0,
        "second x vector": 5,
    }
    assert (training.slowed, training.since, values.item()) == (1, 20, 1)
    training.steps, training.arrays["newest x vector"][:] = 21, 4
    training.average()
    # As behind the first step of all, the state before counts a third.
    assert training.arrays["mean x vector"].item() == pytest.approx(3)


def test_a_slope_that_is_not_finite_counts_as_none() -> None:
    values = torch.zeros(2)
    student = Mock(parameters=lambda: {"x vector": values}, changed=lambda: None)
    student.loss.return_value = float("inf")
    student.slopes = lambda: [("x vector", torch.tensor([float("nan"), 1.0]))]
    training = Training(student, seed=0)
    texts = MagicMock(__len__=lambda self: 8)
    for _ in range(3):
        training.step(texts)
    newest = training.arrays["newest x vector"]
    assert newest[0] == 0
    assert newest[1] < 0


def test_a_restored_training_has_the_mean_parameters() -> None:
    values = torch.zeros(1)
    student = Mock(parameters=lambda: {"x vector": values})
    arrays = {f"{kind} x vector": np.full(1, count, np.float32) for kind, count in (("newest", 3), ("mean", 2))}
    arrays |= {f"{kind} x vector": np.zeros(1, np.float32) for kind in ("first", "second")}
    Training.restored(student, 0, {"steps": 5, "slowed": 0, "since": 0}, arrays)
    assert values.item() == 2
