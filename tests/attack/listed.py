"""The list of attacks that once succeeded, to which the modules ``known_*`` add."""

from __future__ import annotations

from collections.abc import Callable

from attack.harness import Case, Place, Run

REFUSED, DONE = frozenset({2}), frozenset({0})
SHORT = {"wall": 25.0}

KNOWN: dict[str, Case] = {}


def known(name: str, case: Case) -> None:
    """Add an attack to the list."""
    assert name not in KNOWN
    KNOWN[name] = case


def lazily(name: str, make: Callable[[], Case]) -> Case:
    """A case that is made only when it is tried, because it needs files of ``attack.models``."""

    def prepare(place: Place) -> list[Run]:
        inner = make()
        case.check, case.together = inner.check, inner.together
        return inner.prepare(place)

    case = Case(name, prepare)
    return case
