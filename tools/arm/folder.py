"""Where the build of llama.cpp for ARM64 is; ``python -m tools.arm.folder`` prints the program's path."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import platformdirs

VARIABLE = "LIEQ_ARM_DIR"
ROOT = Path(__file__).parents[2]


def version() -> str:
    """The version of llama-cpp-python that the project is tested with."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (found,) = re.findall(r"^llama-cpp-python==(\S+)$", pins, re.MULTILINE)
    return str(found)


def program() -> Path:
    """The program for ARM64, which ``tools/arm.sh`` builds; its name changes with its source.

    It is in ``LIEQ_ARM_DIR``, or in the platform's folder for files that programs can make again.
    """
    folder = os.environ.get(VARIABLE)
    cache = Path(folder).expanduser() if folder else platformdirs.user_cache_path("lieq-edge-arm", appauthor=False)
    source = (Path(__file__).parent / "run.cpp").read_bytes()
    return cache / version() / "bin" / f"run-{hashlib.sha256(source).hexdigest()[:12]}"


if __name__ == "__main__":
    print(program())
