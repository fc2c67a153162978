"""Rates of a machine, for estimates of time. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """Rates of this machine.

    Attributes:
        quick: products as measurements use them, in bfloat16 where it is faster, operations a second.
        exact: products in float32, operations a second.
        encode: weights a second that ggml's Q4_K encoder takes in one thread.
    """

    quick: float
    exact: float
    encode: float
