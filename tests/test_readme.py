"""What the README says of families and flags is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runner import run

ROOT = Path(__file__).parents[1]

from tools import families_table  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_of_families_is_that_of_the_registry_and_the_tests() -> None:
    """When this fails: python -m tools.families_table"""
    assert families_table.updated(README) == README


def test_every_family_has_a_proof() -> None:
    assert [name for name, cases in families_table.proof_cases().items() if not cases] == []


def test_the_table_changes_with_the_cases(tmp_path: Path) -> None:
    source = 'CASES: dict = {"llama": ("llama", {}), "llama turned": ("llama", {"x": 1}), "other": ("none", {})}\n'
    (tmp_path / "test_x.py").write_text(source)
    cases = families_table.proof_cases(tmp_path)
    assert cases["llama"] == ["llama", "llama turned"]
    assert cases["qwen2"] == []


@pytest.mark.parametrize("command", ["export", "analyze", "plan", "validate", "inspect"])
def test_every_flag_is_in_the_readme(command: str) -> None:
    from typer.main import get_command

    from lieq_edge.cli import app

    flags = {
        option
        for parameter in get_command(app).commands[command].params  # type: ignore[attr-defined]
        for option in parameter.opts
        if option.startswith("--")
    }
    assert flags
    assert {flag for flag in flags if not re.search(re.escape(flag) + r"\b", README)} == set()
    assert run(command, "--help").returncode == 0
