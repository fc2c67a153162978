"""Cores of its own for each process that shares the tests, from the import of this module on.

Processes that all use every core slow each other several times over, because idle threads spin. Programs that a test
starts, and libraries that are loaded later, count the cores that are left to it.
"""

from __future__ import annotations

import os

import psutil


def own_part(cores: list[int], process: int, processes: int) -> list[int]:
    """Every ``processes``-th core, from that of the number of this process on; there may be fewer cores."""
    return cores[process % len(cores) :: processes]


_NAME = os.environ.get("PYTEST_XDIST_WORKER")
if _NAME is not None and hasattr(psutil.Process, "cpu_affinity"):
    _THIS = psutil.Process()
    _THIS.cpu_affinity(
        own_part(_THIS.cpu_affinity(), int(_NAME.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    )
