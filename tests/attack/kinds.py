"""All kinds of attacks."""

from __future__ import annotations

from attack import directories, faults, gguf_files, outputs, requests, terminal, together
from attack.harness import Kind

# Parts of all cases. A run that opens a model takes ten times as long as one that reads a file, and several runs at
# once take longer still.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("directories", directories.case, 0.16),
        Kind("gguf", gguf_files.case, 0.28),
        Kind("requests", requests.case, 0.26),
        Kind("terminal", terminal.case, 0.20),
        Kind("outputs", outputs.case, 0.05),
        Kind("faults", faults.case, 0.04),
        Kind("together", together.case, 0.01),
    )
}


def numbers(total: int) -> dict[str, int]:
    """How many cases of each kind make up ``total``."""
    return {name: max(1, round(total * kind.share)) for name, kind in KINDS.items()}
