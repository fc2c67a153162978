"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of native code, a finaliser, or a
library's import that catches everything, it is swallowed, and the work would go on. The program therefore remembers
that it was asked to stop, and every step of long work checks. Within an import it is not raised at all: native modules
that import Python ones abort the process (PyTorch does), and a half imported library fails in its own way.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

_asked = False


def watch() -> None:
    """Remember interrupts from now on; they still raise KeyboardInterrupt, except the first within an import.

    Only the main thread of a program can do this.
    """
    global _asked
    _asked = False
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _remember)


def hush() -> None:
    """Do not print interrupts that are swallowed in finalisers, where Python can only print them: ``check`` raises."""
    sys.unraisablehook = _print_but_interrupts


def _print_but_interrupts(unraisable: Any) -> None:
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def came() -> bool:
    """True when an interrupt came that ``check`` has not raised yet; later errors may be caused by it."""
    return _asked


def check() -> None:
    """Raise KeyboardInterrupt when one came that had no effect yet."""
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    global _asked
    again, _asked = _asked, True
    if again or not _imports(frame):
        raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """True when ``frame`` runs on behalf of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
