"""llama.cpp's log: kept quiet, its errors collected. Imports llama.cpp."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator

import llama_cpp

_ERROR_LEVEL = 4  # GGML_LOG_LEVEL_ERROR
_MOST_LINES = 50
_FLASH_ATTENTION = re.compile(r"flash attention\b.*\b(enabled|disabled)", re.IGNORECASE)


class Log:
    """What llama.cpp has logged since the log was last emptied.

    Attributes:
        errors: error messages, the oldest (the cause) first.
        flash_attention: whether attention is computed in one fused step; None where llama.cpp did not log it.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.flash_attention: bool | None = None

    def clear(self) -> None:
        """Empty the log."""
        self.errors.clear()
        self.flash_attention = None

    def reason(self, otherwise: str = "no reason given") -> str:
        """The first error, which names the cause; the later ones only report that loading failed."""
        return self.errors[0] if self.errors else otherwise


_log = Log()


@llama_cpp.llama_log_callback
def _collect(level: int, text: bytes, _user_data: object) -> None:
    line = text.decode("utf-8", errors="replace").strip(" \n=")
    if match := _FLASH_ATTENTION.search(line):
        _log.flash_attention = match[1].lower() == "enabled"
    if level == _ERROR_LEVEL and line:
        # "function: message": the function's name does not help a user.
        _log.errors.append(line.split(": ", 1)[-1])
        del _log.errors[:-_MOST_LINES]


@contextlib.contextmanager
def captured_log() -> Iterator[Log]:
    """Silence llama.cpp from here on; the value holds what it has logged since."""
    llama_cpp.llama_log_set(_collect, ctypes.c_void_p(0))
    _log.clear()
    yield _log
