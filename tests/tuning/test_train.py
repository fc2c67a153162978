"""Training: the pace of its steps."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from lieq_edge.tuning.train import CHOSEN_AT, Training


@pytest.mark.parametrize(("divergence", "pace"), [(4 * CHOSEN_AT, 1.0), (CHOSEN_AT, 1.0), (CHOSEN_AT / 4, 0.5), (0, 0)])
def test_a_file_near_the_original_is_trained_by_smaller_steps(divergence: float, pace: float) -> None:
    training = Training(Mock(parameters=dict), seed=0)
    training.suit(divergence)
    assert training.pace == pytest.approx(pace)
