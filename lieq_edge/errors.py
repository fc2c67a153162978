"""Errors that are the user's to mend, told in one sentence."""

from __future__ import annotations


class InputError(Exception):
    """Bad input: the message is one sentence that says what is wrong and what to do (exit code 2)."""


class GateError(Exception):
    """A validation gate that the user asked for was not met (exit code 1)."""
