"""Notes are printed, so that tests can read them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lieq_edge.system.progress import Terminal, receive_with


@pytest.fixture(autouse=True)
def _notes_are_printed() -> Iterator[None]:
    with receive_with(Terminal()):
        yield
