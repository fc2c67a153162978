"""Errors that a user can fix, each reported in one sentence."""

from __future__ import annotations

_LONGEST = 1000


def reason_of(message: str) -> str:
    """A message of pydantic as a part of a sentence."""
    reason = message.removeprefix("Value error, ")
    return f"{reason[:1].lower()}{reason[1:]}"


class InputError(Exception):
    """Bad input: the message is one sentence that says what is wrong and what to do (exit code 2).

    A quotation from a damaged file may hold anything: control characters become spaces, and a long message is cut.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else " " for c in message)
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}")


class GateError(Exception):
    """A validation gate that the user asked for was not met (exit code 1)."""
