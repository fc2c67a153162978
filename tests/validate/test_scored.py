"""What follows from several scored files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lieq_edge.texts.info import TextInfo
from lieq_edge.validate.perplexity import Validation
from lieq_edge.validate.scored import ScoredFile, better_choice, comparison_note, short_names


def row(name: str, size: int, kld: float) -> ScoredFile:
    scores = Validation(20.0, 0.1, 1000, size, 512, 4, TextInfo("text", "0" * 64, 2048), reference_ppl=19.0, kld=kld)
    return ScoredFile(name, size, scores)


@pytest.mark.parametrize(
    ("others", "better"),
    [
        ([row("smaller and better", 900, 0.05)], "smaller and better"),
        ([row("as large and better", 1000, 0.09)], "as large and better"),
        ([row("a budget that was not filled", 1009, 0.09)], "a budget that was not filled"),
        ([row("better", 1000, 0.09), row("best", 990, 0.08), row("too large", 1011, 0.01)], "best"),
        ([row("as good", 900, 0.1)], None),
        ([row("worse", 900, 0.2), row("larger", 1011, 0.01)], None),
        ([], None),
    ],
)
def test_a_better_choice_is_no_larger_and_closer(others: list[ScoredFile], better: str | None) -> None:
    found = better_choice([row("ours", 1000, 0.1), *others])
    assert (found.name if found else None) == better


def test_the_note_names_the_better_choice_or_the_gain() -> None:
    ours = row("ours", 100_000_000, 0.1)
    lost = comparison_note([ours, row("Q4_K_M", 99_000_000, 0.05)])
    assert lost.startswith("Warning: Q4_K_M is the better choice: KL divergence 0.05 at 99.0 MB")
    won = comparison_note([ours, row("Q3_K_M", 101_000_000, 0.4), row("Q4_K_M", 100_000_000, 0.2)])
    assert won == (
        "KL divergence 0.25 times that of Q3_K_M, at 1.0 % fewer bytes. "
        "KL divergence 0.50 times that of Q4_K_M, at the same size."
    )
    assert "inf times that of F16" in comparison_note([ours, row("F16", 300_000_000, 0.0)])


def test_the_folder_is_left_out_where_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_names([Path("a.gguf"), tmp_path / "b.gguf"]) == ["a.gguf", "b.gguf"]
    assert short_names([Path("x/a.gguf"), Path("y/a.gguf")]) == [str(Path("x/a.gguf")), str(Path("y/a.gguf"))]
