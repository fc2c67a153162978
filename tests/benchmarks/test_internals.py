"""The list of internals matches the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import internals


@pytest.mark.parametrize("name", sorted(internals.homes()))
def test_a_name_is_found(name: str) -> None:
    assert getattr(internals, name) is not None


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = internals.nonsense  # type: ignore[attr-defined]


def test_light_names_load_no_torch() -> None:
    program = "import sys; from benchmarks.internals import TYPES, read_header; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
