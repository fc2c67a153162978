"""More calibration tokens for wider rows, where H is followed."""

from __future__ import annotations

import pytest

from lieq_edge.pipeline.calibration import default_tokens
from lieq_edge.settings import Effort
from lieq_edge.sources.base import TensorSpec


class Shapes:
    """All that is asked of a source here."""

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def tensors(self) -> list[TensorSpec]:
        return [
            TensorSpec("token_embd.weight", (512, 64), "F32"),
            TensorSpec("blk.0.ffn_down.weight", (64, self._columns), "F32"),
            TensorSpec("blk.0.ffn_norm.weight", (99999,), "F32"),
        ]


@pytest.mark.parametrize(("columns", "tokens"), [(1536, 16384), (8960, 27136)])
def test_the_widest_matrix_decides(columns: int, tokens: int) -> None:
    assert default_tokens(Shapes(columns), follows_loss=True) == tokens  # type: ignore[arg-type]
    assert tokens % 512 == 0


@pytest.mark.parametrize(("effort", "tokens"), [("quick", 7168), ("normal", 27136), ("best", 53760)])
def test_effort_takes_a_share(effort: Effort, tokens: int) -> None:
    assert default_tokens(Shapes(8960), follows_loss=True, effort=effort) == tokens  # type: ignore[arg-type]


def test_importance_alone_takes_fewer() -> None:
    assert default_tokens(Shapes(8960), follows_loss=False) == 8192  # type: ignore[arg-type]
