"""Attacks that once succeeded, one test for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attack.client import Attackers
from attack.known import KNOWN

OPEN: dict[str, str] = {
    "normalizers-that-grow": "tokenizers are loaded in this process, not in a child with limits",
    "normalizer-prepends-10MB": "tokenizers are loaded in this process, not in a child with limits",
    "memory-5": "a library's error at a full memory is not told from a mistake",
}
"""Why an attack still succeeds."""


@pytest.fixture(scope="module")
def attackers() -> Iterator[Attackers]:
    with Attackers(1) as started:
        yield started


def _named(name: str) -> object:
    marks = [pytest.mark.xfail(reason=OPEN[name])] if name in OPEN else []
    return pytest.param(name, id=name, marks=marks)


@pytest.mark.parametrize("name", map(_named, KNOWN))
def test_known_attack(name: str, attackers: Attackers) -> None:
    (verdict,) = attackers.attack([("known", name)])
    if verdict.skipped:
        pytest.skip(verdict.skipped)
    assert verdict.failure is None, f"{verdict.repro}: {verdict.failure}"


def test_open_attacks_are_known() -> None:
    assert set(OPEN) <= set(KNOWN)
