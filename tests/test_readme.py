"""The documentation names every family and every flag, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runner import run

ROOT = Path(__file__).parents[1]

from tools import families_table  # noqa: E402

MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
OPTIONS = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/guides/*.md"), ROOT / "benchmarks" / "README.md"]
)


def test_the_table_of_families_is_that_of_the_registry_and_the_tests() -> None:
    """When this fails: python -m tools.families_table"""
    assert families_table.updated(MODELS) == MODELS


def test_every_family_has_a_proof() -> None:
    assert [name for name, cases in families_table.proof_cases().items() if not cases] == []


def test_the_table_changes_with_the_cases(tmp_path: Path) -> None:
    source = 'CASES: dict = {"llama": ("llama", {}), "llama turned": ("llama", {"x": 1}), "other": ("none", {})}\n'
    (tmp_path / "test_x.py").write_text(source)
    cases = families_table.proof_cases(tmp_path)
    assert cases["llama"] == ["llama", "llama turned"]
    assert cases["qwen2"] == []


COMMANDS = ("export", "sweep", "fit", "analyze", "plan", "validate", "inspect", "chat", "bench", "card")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_in_the_options(command: str) -> None:
    from typer.main import get_command

    from lieq_edge.cli import app

    flags = {
        option
        for parameter in get_command(app).commands[command].params  # type: ignore[attr-defined]
        for option in parameter.opts
        if option.startswith("--")
    }
    assert flags
    assert {flag for flag in flags if not re.search(re.escape(flag) + r"\b", OPTIONS)} == set()
    assert run(command, "--help").returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
