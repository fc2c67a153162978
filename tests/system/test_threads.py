"""The cores that may be used."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from lieq_edge.system.threads import available_threads

_ON_ONE = """
import psutil
from lieq_edge.system.threads import available_threads
psutil.Process().cpu_affinity([{core}])
print(available_threads())
"""


def test_no_more_than_the_machine_has() -> None:
    assert 1 <= available_threads() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="the system knows no restriction")
def test_a_restriction_counts() -> None:
    core = psutil.Process().cpu_affinity()[0]
    done = subprocess.run([sys.executable, "-c", _ON_ONE.format(core=core)], check=True, stdout=subprocess.PIPE)
    assert done.stdout.split() == [b"1"]


def test_without_restrictions_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    assert available_threads() == os.cpu_count()
