"""Peak memory of a part of a process."""

from __future__ import annotations

from pathlib import Path

from lieq_edge.system.memory import peak_rss_bytes

_PROC = Path("/proc/self")


def forget_peak() -> None:
    """Let the peak start anew (Linux only; elsewhere it stays the process's)."""
    if _PROC.exists():
        (_PROC / "clear_refs").write_text("5")


def peak_bytes() -> int:
    """The largest resident size since ``forget_peak``."""
    if not _PROC.exists():
        return peak_rss_bytes()
    line = next(line for line in (_PROC / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
