"""llama_cpp is imported in one folder, and there not before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import lieq_edge

PACKAGE = Path(lieq_edge.__file__).parent


def imports(path: Path) -> set[str]:
    """First names of all modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def test_one_folder_imports_llama_cpp() -> None:
    importers = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "llama_cpp" in imports(path)}
    names = ("library", "loaded", "log", "observer", "quantizer", "writer")
    assert {path.name for path in importers} == {f"{name}.py" for name in names}
    assert {path.parts[0] for path in importers} == {"llama"}


def test_this_end_does_not_import_it() -> None:
    names = ("child", "encoders", "engine", "layout", "library", "quantize", "reload", "session", "vocabulary")
    modules = ", ".join(f"lieq_edge.llama.{name}" for name in names)
    script = f"import {modules}, sys; print({{'llama_cpp', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
