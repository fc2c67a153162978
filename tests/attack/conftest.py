"""Attacks run in forked processes of Linux: other systems have no fork that is safe, or no such limits."""

from __future__ import annotations

import sys

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "attack" in item.path.parts and sys.platform != "linux":
            item.add_marker(pytest.mark.skip(reason="needs fork and Linux's limits"))
