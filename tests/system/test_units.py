"""Sizes and ages, for people."""

from __future__ import annotations

import pytest

from lieq_edge.system.units import age_text, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (12, "12 bytes"),
        (1500, "1.5 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (90_000_000, "90.0 MB"),
        (999_960_000, "1.00 GB"),
        (3_200_000_000, "3.20 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (3 * 3600 + 59, "3 hours ago"),
        (86400, "1 day ago"),
        (40.5 * 86400, "40 days ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
