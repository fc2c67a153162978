"""Scores of the blocks from known measurements."""

from __future__ import annotations

import math

import pytest
from records import make_diagnostics

from lieq_edge.errors import InputError
from lieq_edge.evidence.blocks.metrics import ScoreOptions
from lieq_edge.evidence.blocks.table import score_blocks


def test_geometry_is_the_compactness_gain() -> None:
    diagnostics = make_diagnostics(gains=[0.3, -1.0, 0.7])
    assert score_blocks(diagnostics, "geometry") == [0.3, -1.0, 0.7]


def test_composite_scales_each_part_to_one() -> None:
    diagnostics = make_diagnostics(gains=[0.0, 1.0, 0.5], drops=[0.0, math.e - 1, 0.0], energies=[2.0, 4.0, 3.0])
    assert score_blocks(diagnostics, "composite") == pytest.approx([0.0, 1.0, 1 / 3])


def test_composite_takes_the_size_of_a_negative_drop() -> None:
    diagnostics = make_diagnostics(gains=[0.0, 0.0], drops=[-5.0, 1.0], energies=[0.0, 0.0])
    first, second = score_blocks(diagnostics, "composite")
    assert first > second


def test_controls_order_blocks_as_named() -> None:
    diagnostics = make_diagnostics(gains=[0.0] * 4)
    assert score_blocks(diagnostics, "first") == sorted(score_blocks(diagnostics, "first"), reverse=True)
    assert score_blocks(diagnostics, "last") == sorted(score_blocks(diagnostics, "last"))
    first, again, other = (score_blocks(diagnostics, "random", ScoreOptions(seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_missing_measurement_is_named() -> None:
    with pytest.raises(InputError, match="delta_ppl"):
        score_blocks(make_diagnostics(gains=[0.0]), "saliency")


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InputError, match="geometry"):
        score_blocks(make_diagnostics(gains=[0.0]), "magic")
