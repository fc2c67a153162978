"""Training: the pace of its steps."""

from __future__ import annotations

from unittest.mock import Mock

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
