"""The flags of demo.sh are those of the present command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from lieq_edge.cli import app

SCRIPT = (Path(__file__).parents[2] / "tools" / "demo.sh").read_text(encoding="utf-8")
CALLS = re.findall(r'/lieq-edge" (\w+) (.*)', SCRIPT)


def test_the_demo_exports_inspects_and_validates() -> None:
    assert [name for name, _ in CALLS] == ["export", "inspect", "validate"]


@pytest.mark.parametrize(("name", "words"), CALLS)
def test_flags_exist(name: str, words: str) -> None:
    parameters = get_command(app).commands[name].params  # type: ignore[attr-defined]
    known = {option for parameter in parameters for option in parameter.opts}
    assert set(re.findall(r"--[\w-]+", words)) <= known
