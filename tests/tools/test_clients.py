"""The script that opens a file with other programs: its flags exist, and it says what failed."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from lieq_edge.cli import app

TOOLS = Path(__file__).parents[2] / "tools"
SCRIPT = (TOOLS / "clients.sh").read_text(encoding="utf-8")
PROGRAMS = sorted(path.name for path in (TOOLS / "clients").iterdir() if path.is_file())


def test_flags_exist() -> None:
    ((name, words),) = re.findall(r'/lieq-edge" (\w+) (.*)', SCRIPT)
    words += " ".join(re.findall(r"^    export_demo (.*)", SCRIPT, re.MULTILINE))
    parameters = get_command(app).commands[name].params  # type: ignore[attr-defined]
    known = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"--[\w-]+", words)) <= known


def test_every_step_has_its_function_and_every_program_its_step() -> None:
    steps = re.findall(r'^step "[^"]+" (\w+)$', SCRIPT, re.MULTILINE)
    assert len(steps) == 8
    assert set(steps) == set(re.findall(r"^(\w+)\(\) \($", SCRIPT, re.MULTILINE)) - {"node_package"}
    assert [name for name in PROGRAMS if name not in SCRIPT] == []
    for name in PROGRAMS:
        if name.endswith(".py"):
            ast.parse((TOOLS / "clients" / name).read_text(encoding="utf-8"))


@pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash")
def test_what_fails_is_said_and_ends_with_1(tmp_path: Path) -> None:
    def run(*commands: str) -> tuple[int, list[str]]:
        program = tmp_path / "venv" / "bin" / "lieq-edge"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("\n".join(["#!/usr/bin/env bash", *commands]) + "\n")
        program.chmod(0o755)
        variables = {**os.environ, "LIEQ_VENV": str(tmp_path / "venv"), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", str(TOOLS / "clients.sh"), str(tmp_path / "work")], capture_output=True, text=True, env=variables
        )
        return done.returncode, done.stdout.splitlines()

    code, lines = run("echo broken >&2", "exit 3")
    assert code == 1
    assert lines[0].startswith("lieq-edge export: failed (exit code 3, see ")
    assert (tmp_path / "work" / "logs" / "lieq-edge-export.log").read_text() == "broken\n"
    assert lines[1] == "There is no file to open."
