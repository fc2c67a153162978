"""The page as a file: what is on it, what is not, and that nothing from elsewhere takes effect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from html_tree import EVIL, Tree, headings
from page_reports import SCORES, bare, preset, report, tensors

from lieq_edge.errors import InputError
from lieq_edge.page import Answer, write_page
from lieq_edge.page.write import render


def full() -> str:
    second = report(out="b.gguf", file_bytes=120_000_000, validation=replace(SCORES, kld=0.003))
    answers = [Answer("What is 2 + 3?", "5", "Five.\nOr so."), Answer("Say yes.", "yes", "yes")]
    return render([report(), second], compared=[preset()], answers=answers, command="lieq-edge export m -b 90MB")


def test_everything_that_was_measured_is_on_the_page() -> None:
    text = full()
    assert headings(text) == [
        "model-90MB.gguf",
        "b.gguf",
        "Size against distance from the original",
        "Comparison",
        "Predicted and measured loss",
        "Answers",
        "Where the bits are in model-90MB.gguf",
        "Where the bits are in b.gguf",
        "How model-90MB.gguf was made",
        "How b.gguf was made",
        "Make it again",
    ]
    for part in ("Q3_K_M", "0.0125", "93.1 %", "What is 2 + 3?", "Five.\nOr so.", "lieq-edge export m -b 90MB"):
        assert part in text
    for part in (
        "Types by predicted loss.",
        "The adapter was merged.",
        "Q3_K -&gt; IQ4_NL",
        "SHA-256",
        "word for word",
        "quantise and write",
        "180.0",
        "1.50 GB",
    ):
        assert part in text
    tree = Tree(text)
    # Each picture is there for a wide and for a narrow screen, with a title and a description.
    assert tree.tags.count("desc") == 2 * (1 + 2 + 2)
    ids = [value for name, value in tree.attributes if name == "id"]
    assert len(ids) == len(set(ids)) == 2 * tree.tags.count("desc")
    named = [value for name, value in tree.attributes if name == "aria-labelledby"]
    assert {word for value in named for word in (value or "").split()} == set(ids)


def test_what_was_not_measured_is_not_on_the_page() -> None:
    text = render([bare()])
    assert headings(text) == ["model-90MB.gguf", "Where the bits are", "How it was made"]
    assert "redicted" not in Tree(text).text
    assert "undefined" not in text.lower()
    assert "None" not in text
    Tree(text)


def test_a_report_without_tensors_makes_a_page() -> None:
    text = render([bare(tensors=(), settings={}, seconds={})])
    assert headings(text) == ["model-90MB.gguf", "How it was made"]
    assert "geometry" in text
    assert "<figure" not in text
    Tree(text)


def test_names_and_texts_are_text() -> None:
    evil = replace(tensors()[2], name=f"blk.0.{EVIL}.weight", role=EVIL, type=EVIL)
    made = report(
        model=EVIL,
        out=EVIL.replace("/", "_"),
        architecture=EVIL,
        warnings=(EVIL,),
        method=EVIL,
        fallbacks={EVIL: EVIL},
        tensors=(*tensors(), evil),
        settings={EVIL: [EVIL]},
        seconds={EVIL: 1.0},
        calibration=replace(SCORES.text, name=EVIL, sha256=EVIL),
    )
    text = render([made], compared=[preset(EVIL)], answers=[Answer(EVIL, EVIL, EVIL + "x", EVIL)], command=EVIL)
    tree = Tree(text)
    assert "script" not in tree.tags
    assert "img" not in tree.tags
    assert not [name for name, _ in tree.attributes if name.startswith("on")]
    assert "".join(tree.text).count("<script>alert(1)</script>") > 10


def test_the_page_needs_nothing_else() -> None:
    text = full()
    tree = Tree(text)
    assert "script" not in tree.tags
    assert [value for name, value in tree.attributes if name in ("src", "href", "xlink:href")] == ["data:,"]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_a_page_appears_whole_and_replaces_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_page(path, [report()])
    first = path.read_text("utf-8")
    assert first.startswith("<!DOCTYPE html>")
    with pytest.raises(InputError, match="exists"):
        write_page(path, [bare()])
    assert path.read_text("utf-8") == first
    write_page(path, [bare()], replace=True)
    assert path.read_text("utf-8") != first
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_needs_a_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one"):
        write_page(tmp_path / "x.html", [])
    assert not list(tmp_path.iterdir())
