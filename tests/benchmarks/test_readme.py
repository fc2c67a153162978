"""Every benchmark has its command in the list and on top of its file, and runs at least for its help."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
COMMANDS = [
    name for name in MODULES if 'if __name__ == "__main__":' in (FOLDER / f"{name}.py").read_text(encoding="utf-8")
]


def test_there_are_commands() -> None:
    assert {"scale", "quality", "overhead"} <= set(COMMANDS) < set(MODULES)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_listed(name: str) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert (f"`python -m benchmarks.{name} " if name in COMMANDS else f"`{name}.py`") in text


@pytest.mark.parametrize("name", MODULES)
def test_the_inside_of_the_package_is_imported_at_one_place(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    imports = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imports += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    inside = {module for module in imports if module.startswith("lieq_edge.")}
    allowed = inside if name == "internals" else {"lieq_edge.cli"} if name == "scale_profile" else set()
    assert inside == allowed
