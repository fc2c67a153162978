"""The program: ``lieq-edge`` and ``python -m lieq_edge``."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from .system import interrupt

_leaving = threading.Lock()


def main() -> None:
    """Run the command line and end the process; Ctrl-C while it is still being imported ends it quietly too."""
    code = 0
    _open_closed_streams()
    try:
        interrupt.watch(_interrupt)
        interrupt.hush()
        from .cli import main as run

        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        _interrupt(interrupt.exit_code())
    except (OSError, MemoryError) as error:
        # Of an import, or of a stderr that takes no more.
        with contextlib.suppress(OSError, ValueError):
            print(f"Error: The system says: {error or type(error).__name__}; fix that and try again.", file=sys.stderr)
        code = 2
    _leave(code)


def _open_closed_streams() -> None:
    """Read from and print to nowhere where the caller has closed a stream, so that no other file gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # the system gives the lowest number free
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _interrupt(code: int) -> None:
    """End the process after an interrupt, from any thread."""
    if _leaving.acquire(blocking=False):
        with contextlib.suppress(OSError, ValueError):
            print("Interrupted.", file=sys.stderr)
            if words := interrupt.last_words():
                print(words, file=sys.stderr)
        _end(code)


def _leave(code: int) -> None:
    """End the process, unless another thread does so already."""
    if _leaving.acquire(blocking=False):
        _end(code)
    threading.Event().wait()


def _end(code: int) -> None:
    """End the process at once. Python would take a second to take PyTorch and transformers apart, object by object."""
    from .system.temporary import remove_present

    if (child := sys.modules.get(f"{__package__}.system.child")) is not None:
        child.kill_all()
    remove_present()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as it is where the caller has closed it
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
