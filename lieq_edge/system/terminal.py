"""The one way to the terminal: whatever is printed is text, with nothing in it that a terminal would obey."""

from __future__ import annotations

import sys
from typing import TextIO


def clean(text: str) -> str:
    """One printable line: control characters and line ends become spaces, bytes that are not UTF-8 become U+FFFD.

    Names of files, models and tensors come from others and may hold anything.
    """
    return "".join(_shown(character) for character in text)


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
    target = sys.stderr if stream is None else stream
    if target is None:  # as it is where the caller has closed it
        return
    encoding = getattr(target, "encoding", None) or "utf-8"
    print(clean(text).encode(encoding, "replace").decode(encoding), file=target, flush=True)
