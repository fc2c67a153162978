"""What is installed: the package with its data, from a wheel and from a source distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "lieq_edge", "recipes")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a distribution is made from, because building leaves files there."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=ignored)
        else:
            shutil.copy(source, folder / part)
    return folder


def build(folder: Path, what: str, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, what, str(out)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def expected() -> set[str]:
    """Everything that git would have of the package, and the recipes, as they are installed."""
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lieq_edge").rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    recipes = {f"lieq_edge/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    assert len(recipes) > 10
    assert "lieq_edge/page/templates/page.html" in modules
    return modules | recipes


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_has_every_module_every_template_and_the_recipes(checkout: Path, tmp_path: Path) -> None:
    assert contents(build(checkout, "build_wheel", tmp_path)) == expected()


def test_a_wheel_from_a_source_distribution_is_the_same(checkout: Path, tmp_path: Path) -> None:
    archive = build(checkout, "build_sdist", tmp_path)
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    assert contents(build(unpacked, "build_wheel", tmp_path)) == expected()


def test_installed_recipes_are_found(checkout: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(checkout, "build_wheel", tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import lieq_edge\n"
        "recipe = lieq_edge.read_recipe('paper')\n"
        "print(recipe.path)\n"
        "print(len(lieq_edge.list_recipes()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    path, count = done.stdout.split()
    assert Path(path) == tmp_path / "site" / "lieq_edge" / "recipes" / "paper.yaml"
    assert int(count) == len(list((ROOT / "recipes").glob("*.yaml")))
