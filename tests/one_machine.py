"""One measurement of the machine serves all exports of a process: half a second for each of a thousand adds up."""

from __future__ import annotations

import functools

from lieq_edge.pipeline import steps


def measure_once() -> None:
    """Keep the first measurement, from now on."""
    steps.measure_machine = functools.cache(steps.measure_machine)  # type: ignore[assignment]
    steps.measure_without_pytorch = functools.cache(steps.measure_without_pytorch)  # type: ignore[assignment]
