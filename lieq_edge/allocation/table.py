"""Names of the metrics of all allocators."""

from __future__ import annotations

from ..evidence.blocks.table import METRICS
from . import by_loss

METRIC_NAMES = (*METRICS, by_loss.NAME)
"""Every value of ``--metric``."""
