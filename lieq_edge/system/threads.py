"""The processor cores that this process may use."""

from __future__ import annotations

import os

import psutil


def available_threads() -> int:
    """Cores that this process may use; macOS knows no such restriction."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return len(process.cpu_affinity())
    return os.cpu_count() or 1
