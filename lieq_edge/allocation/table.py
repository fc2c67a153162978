"""Allocators by the name of the metric that users give."""

from __future__ import annotations

from ..evidence.blocks.table import METRICS
from . import by_loss

METRIC_NAMES = (*METRICS, by_loss.NAME)
"""Every metric."""
