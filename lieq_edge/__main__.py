"""The program: ``lieq-edge`` and ``python -m lieq_edge``."""

from __future__ import annotations

import contextlib
import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends it quietly too."""
    try:
        from .system import interrupt

        interrupt.watch()
        interrupt.hush()
        from .cli import main as run

        run()
        if sys.stderr is not None:  # as it is where the caller has closed it
            with contextlib.suppress(OSError):
                sys.stderr.flush()
        # All is done and told. Python would take a second to take PyTorch and transformers apart, object by object.
        os._exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
