"""Ctrl-C, and SIGTERM, that cannot get lost and take effect within a second.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of native code, a finaliser, or a
library's import that catches everything, it is swallowed, and the work would go on. The program therefore remembers
that it was asked to stop, and every step of long work checks. Within an import it is not raised at all: native modules
that import Python ones abort the process (PyTorch does), and a half imported library fails in its own way. Where the
main thread has not ended the work after a moment, another thread ends the process.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# For the main thread to end the work by itself: it removes its temporary files, which is quick.
_PATIENCE = 0.6

_asked = False
_number = int(signal.SIGINT)
_last_words: Callable[[], str] | None = None
# Interrupts that ``caught`` took, and that ``_end_late`` has still to pass over.
_forgiven = 0


def watch(leave: Callable[[int], object] | None = None) -> None:
    """Remember interrupts from now on; they still raise KeyboardInterrupt, except the first within an import.

    Only the main thread of a program can do this.

    Args:
        leave: function that ends the process with an exit code. It is called in another thread when the process is
            still there a moment after an interrupt; None leaves everything to the main thread.
    """
    global _asked
    _asked = False
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        signal.signal(number, _remember)
    if leave is None:
        return
    # Without it, where a process may have no more files or threads, everything is left to the main thread.
    with contextlib.suppress(OSError, RuntimeError):
        # The system's own handler writes the number of the signal there, whatever Python is doing.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        threading.Thread(target=_end_late, args=(reader, leave), name="interrupts", daemon=True).start()


def hush() -> None:
    """Do not print interrupts that are swallowed in finalisers, where Python can only print them: ``check`` raises."""
    sys.unraisablehook = _print_but_interrupts


def _print_but_interrupts(unraisable: Any) -> None:
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


def came() -> bool:
    """True when an interrupt came that ``check`` has not raised yet; later errors may be caused by it."""
    return _asked


def set_last_words(words: Callable[[], str] | None) -> None:
    """Set what the program says after "Interrupted."; None says nothing."""
    global _last_words
    _last_words = words


def last_words() -> str:
    """What the program says after "Interrupted."."""
    return "" if _last_words is None else _last_words()


def exit_code() -> int:
    """The exit code that says which signal came last: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + _number


def check() -> None:
    """Raise KeyboardInterrupt when one came that had no effect yet."""
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def caught() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C in the block end nothing; the value says whether it came. A second one counts as elsewhere.

    For work that the user may stop without leaving the program. Outside the main thread nothing is caught.
    """
    came = False

    def take(number: int, frame: FrameType | None) -> None:
        nonlocal came
        global _forgiven
        if came:
            _remember(number, frame)
        came = True
        _forgiven += 1

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, take)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


def _remember(number: int, frame: FrameType | None) -> None:
    global _asked, _number
    again, _asked, _number = _asked, True, number
    if again or not _imports(frame):
        raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """True when ``frame`` runs on behalf of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end_late(reader: socket.socket, leave: Callable[[int], object]) -> None:
    """Wait for an interrupt, give the main thread a moment, and end the process."""
    global _forgiven
    while number := reader.recv(1):
        if number[0] in _SIGNALS:
            time.sleep(_PATIENCE)
            if number[0] == signal.SIGINT and _forgiven:
                _forgiven -= 1
                continue
            leave(128 + number[0])
