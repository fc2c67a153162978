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
