"""llama.cpp's log: kept quiet, its errors collected. Imports llama.cpp."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable, Iterator

import llama_cpp

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_MOST_LINES = 50
_FLASH_ATTENTION = re.compile(r"flash attention\b.*\b(enabled|disabled)", re.IGNORECASE)
_BUFFER = re.compile(r"(\S+) +(model|output|compute) buffer size = *([0-9.]+) MiB")
# Key-value caches, and states of recurrent blocks; the sizes of their buffers are 0 where nothing is allocated.
_CACHE = re.compile(r": size = *([0-9.]+) MiB \( *[0-9]+ cells")


class Log:
    """What llama.cpp has logged since the log was last emptied.

    Attributes:
        errors: error messages, the oldest (the cause) first.
        flash_attention: whether attention is computed in one fused step; None where llama.cpp did not log it.
        buffers: bytes by purpose: ``cache`` (keys, values and recurrent states), ``compute``, ``output``, and the
            weights by the name of the backend's buffer, e.g. ``CPU_REPACK``.
        listener: function that receives every piece of text, as it was logged.
        failure: what the listener raised first; it is not called again.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.flash_attention: bool | None = None
        self.buffers: dict[str, int] = {}
        self.listener: Callable[[str], None] | None = None
        self.failure: Exception | None = None

    def clear(self) -> None:
        """Empty the log."""
        self.errors.clear()
        self.flash_attention = None
        self.buffers = {}
        self.failure = None

    def note_buffer(self, line: str) -> None:
        """Take the size of a buffer from a line that has one."""
        if match := _BUFFER.search(line):
            backend, purpose, size = match.groups()
            name = backend if purpose == "model" else purpose
        elif match := _CACHE.search(line):
            name, size = "cache", match[1]
        else:
            return
        self.buffers[name] = self.buffers.get(name, 0) + round(float(size) * 2**20)

    def hand_over(self, text: str) -> None:
        """Call the listener; an error could not pass through llama.cpp, and is stored."""
        if self.listener is not None and self.failure is None:
            try:
                self.listener(text)
            except Exception as error:
                self.failure = error

    def reason(self, otherwise: str = "no reason given") -> str:
        """The first error, which names the cause; the later ones only report that loading failed."""
        return self.errors[0] if self.errors else otherwise


_log = Log()


@llama_cpp.llama_log_callback
def _collect(level: int, text: bytes, _user_data: object) -> None:
    piece = text.decode("utf-8", errors="replace")
    _log.hand_over(piece)
    line = piece.strip(" \n=")
    if match := _FLASH_ATTENTION.search(line):
        _log.flash_attention = match[1].lower() == "enabled"
    if "MiB" in line:
        _log.note_buffer(line)
    if level == _ERROR_LEVEL and line:
        # "function: message": the function's name does not help a user.
        _log.errors.append(line.split(": ", 1)[-1])
        del _log.errors[:-_MOST_LINES]


@contextlib.contextmanager
def captured_log(listener: Callable[[str], None] | None = None) -> Iterator[Log]:
    """Silence llama.cpp from here on; the value holds what it has logged since.

    Args:
        listener: function that receives everything that is logged within the block.
    """
    llama_cpp.llama_log_set(_collect, ctypes.c_void_p(0))
    _log.clear()
    _log.listener = listener
    try:
        yield _log
    finally:
        _log.listener = None
