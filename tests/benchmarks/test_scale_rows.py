"""Commands of each row."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import QUICK_SIZES
from benchmarks.scale_rows import ROWS, Setup, groups


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "size-Q3_K_M").write_text("12345\n")
    return Setup(tmp_path, QUICK_SIZES, repeats=3, threads=2, quick=True)


def test_rows_that_share_a_peer_are_measured_together(setup: Setup) -> None:
    names = [[command.name for command in group] for group in groups(list(ROWS), setup)]
    ours = ["wide/quality", "wide/once", "wide/geometry", "wide/quick"]
    assert ["wide/peer", "wide/torch-imatrix", *ours] in names
    every = [name for group in names for name in group]
    assert len(every) == len(set(every))


def test_a_second_budget_follows_the_first(setup: Setup) -> None:
    (commands,) = groups(["cache"], setup)
    followed = {command.name: command.after for command in commands}
    assert followed["cache/quality/second"] == "cache/quality/first"
    assert followed["cache/quality/first"] is None


def test_sizes_and_threads_reach_every_command(setup: Setup) -> None:
    for command in (command for group in groups(list(ROWS), setup) for command in group):
        assert command.arguments[-2:] == ("--threads", "2"), command.name
    (wide,) = groups(["wide-once"], setup)
    assert "12345B" in wide[-1].arguments
    assert "feedback-once" in wide[-1].arguments
    (quick,) = groups(["wide-quick"], setup)
    assert {"12345B", "quick", str(setup.tokens // 4)} < set(quick[-1].arguments)
