"""The one way to the terminal: whatever is printed is text, with nothing in it that a terminal would obey."""

from __future__ import annotations

import sys
from typing import TextIO

# Line end, tab, and the characters of no width that join letters or keep them apart.
_IN_TEXT = "\n\t\u200c\u200d"


def clean(text: str) -> str:
    """One printable line: control characters and line ends become spaces, bytes that are not UTF-8 become U+FFFD.

    Names of files, models and tensors come from others and may hold anything.
    """
    return "".join(_shown(character) for character in text)


def clean_text(text: str) -> str:
    """Printable text of several lines: as ``clean``, with line ends, tabs, and the joiners of scripts and emoji."""
    return "".join(character if character in _IN_TEXT else _shown(character) for character in text)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    # Python reads what is not UTF-8 as surrogates.
    return "\ufffd" if "\ud800" <= character <= "\udfff" else " "


def say(text: str, stream: TextIO | None = None) -> None:
    """Print ``text`` as one line.

    Args:
        text: plain text; neither markup nor control characters take effect.
        stream: place to print to, None for stderr. Characters that it cannot encode are replaced.
    """
    _print(clean(text), "\n", sys.stderr if stream is None else stream)


def stream_text(text: str, stream: TextIO | None) -> None:
    """Print a piece of a longer text, without a line end behind it, so that it is seen at once; as safe as ``say``."""
    _print(clean_text(text), "", stream)


def _print(text: str, end: str, target: TextIO | None) -> None:
    if target is None:  # as it is where the caller has closed it
        return
    encoding = getattr(target, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), end=end, file=target, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        # Work of hours does not end because the disk of its log is full; what it says on stdout is its result.
        if target is not sys.stderr:
            raise
