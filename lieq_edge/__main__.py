"""The program: ``lieq-edge`` and ``python -m lieq_edge``."""

from __future__ import annotations

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


if __name__ == "__main__":
    main()
