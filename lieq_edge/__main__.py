"""The program: ``lieq-edge`` and ``python -m lieq_edge``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it quietly too."""
    try:
        from . import interrupt

        interrupt.watch()
        interrupt.hush()
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    # All is done and told. Python would take a second to take PyTorch and transformers apart, object by object.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
