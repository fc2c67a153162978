"""The page of a sweep: a picture with a line for each method, a table, and what could not be made."""

from __future__ import annotations

from pathlib import Path

from html_tree import EVIL, Tree, headings

from lieq_edge.page.swept import SweptFile, render_swept, write_swept

FILES = [
    SweptFile("m-Q2_K-loss.gguf", "loss, quick", "Q2_K", 90_000_000, 3.1, 20.0, 0.30, 0.01),
    SweptFile("m-Q4_K_M-loss.gguf", "loss, quick", "Q4_K_M", 120_000_000, 4.9, 15.0, 0.05, 0.002),
    SweptFile("m-Q2_K-geometry.gguf", "geometry, quick", "Q2_K", 91_000_000, 3.2, 30.0, 0.90, 0.02),
    SweptFile("m-3-geometry.gguf", "geometry, quick", "3", error="No type fits."),
]


def test_a_line_for_each_method_and_every_file_are_on_the_page() -> None:
    text = render_swept("org/m", FILES, 8)
    Tree(text)
    assert headings(text) == ["Size against distance from the original", "Files", "Files that could not be made"]
    assert "3 of 8 files are ready, 1 could not be made." in text
    for part in ("loss, quick", "geometry, quick", "0.300 ± 0.010", "90.0 MB", "No type fits."):
        assert part in text
    assert text.count('<polyline class="path c0"') == 2  # in the wide and the narrow picture
    assert text.count("No other file that is not larger") == 2  # geometry is larger and worse than loss


def test_files_without_scores_have_a_table_only() -> None:
    text = render_swept("m", [SweptFile("m.gguf", "quick", "Q2_K", 90_000_000, 3.1)], 1)
    Tree(text)
    assert headings(text) == ["Files"]
    assert "<svg" not in text


def test_nothing_from_elsewhere_takes_effect(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    evil = [SweptFile(EVIL, EVIL, EVIL, 90_000_000, 3.1, 20.0, 0.3, 0.01), SweptFile("b", EVIL, EVIL, error=EVIL)]
    write_swept(path, EVIL, evil, 2)
    text = path.read_text(encoding="utf-8")
    tree = Tree(text)
    assert "script" not in tree.tags
    assert "img" not in tree.tags
