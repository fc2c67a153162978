"""The version of the package is that of pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

import lieq_edge


def test_both_say_the_same() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert match is not None
    assert match[1] == lieq_edge.__version__
