"""Attacks that once succeeded, one test for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attack.client import Attackers
from attack.known import KNOWN


@pytest.fixture(scope="module")
def attackers() -> Iterator[Attackers]:
    with Attackers(1) as started:
        yield started


@pytest.mark.parametrize("name", KNOWN)
def test_known_attack(name: str, attackers: Attackers) -> None:
    (verdict,) = attackers.attack([("known", name)])
    if verdict.skipped:
        pytest.skip(verdict.skipped)
    assert verdict.failure is None, f"{verdict.repro}: {verdict.failure}"
