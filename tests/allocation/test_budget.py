"""Reading budgets."""

from __future__ import annotations

import pytest

from lieq_edge.allocation.budget import parse_budget
from lieq_edge.errors import InputError


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("2.1", "nominal", 2.1),
        ("3", "nominal", 3.0),
        ("3.0bpw", "bpw", 3.0),
        ("3 BPW", "bpw", 3.0),
        ("90MB", "bytes", 90e6),
        ("90MiB", "bytes", 90 * 2**20),
        ("1.5gb", "bytes", 1.5e9),
        ("1000000b", "bytes", 1e6),
    ],
)
def test_budgets_are_read(text: str, kind: str, value: float) -> None:
    budget = parse_budget(text)
    assert (budget.kind, budget.value) == (kind, value)


@pytest.mark.parametrize("text", ["", "lots", "-2", "0", "2.1.3", "90 parsecs", "nan", "inf", "1e9"])
def test_other_texts_are_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match="90MB"):
        parse_budget(text)
