"""Four hundred attacks of all kinds; ``tools/attack.sh N`` tries more of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attack.client import Attackers
from attack.kinds import numbers

CASES = 400
BATCH = 25

BATCHES = [
    (kind, first, min(first + BATCH, count))
    for kind, count in numbers(CASES).items()
    for first in range(0, count, BATCH)
]


@pytest.fixture(scope="module")
def attackers(request: pytest.FixtureRequest) -> Iterator[Attackers]:
    with Attackers(2) as started:
        yield started


@pytest.mark.parametrize(("kind", "first", "last"), BATCHES, ids=[f"{k}-{a}-{b - 1}" for k, a, b in BATCHES])
def test_the_program_withstands(kind: str, first: int, last: int, attackers: Attackers) -> None:
    verdicts = list(attackers.attack((kind, number) for number in range(first, last)))
    failures = [f"{v.repro}  # {v.name}: {v.failure}" for v in verdicts if v.failure is not None]
    assert not failures, "\n".join(failures)
    if all(verdict.skipped for verdict in verdicts):
        pytest.skip(verdicts[0].skipped)
