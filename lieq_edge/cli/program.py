"""Run the command line: errors become one sentence and an exit code."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Sequence

import lieq_edge as api

from ..errors import GateError, InputError
from ..system import interrupt
from ..system.memory import is_memory_error
from ..system.terminal import say
from .app import app

# What typer makes of a KeyboardInterrupt.
_INTERRUPTED = 130

_PRESET = re.compile(r"(I|T)?Q\d", re.IGNORECASE)


def main() -> None:
    """Entry point: turn errors into one sentence and an exit code.

    0 done, 1 a gate failed, 2 bad input, 130 interrupted, 143 ended by SIGTERM; 141 the reader of a pipe went away (as
    for other programs), 70 a mistake of our own, with its traceback.

    Raises:
        KeyboardInterrupt: the program was interrupted.
    """
    try:
        # typer itself would draw boxes around errors, and exit with 1 for a closed pipe.
        code = app(_arguments(sys.argv[1:]), standalone_mode=False)
        sys.stdout.flush()
    except SystemExit:
        # typer still ends like this when the reader of a pipe went away.
        code = 141
    except Exception as error:
        if interrupt.came():
            # An interrupted import raises an error of its own.
            code = _INTERRUPTED
        else:
            code = _report(error)
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        sys.exit(code)


def _arguments(given: Sequence[str]) -> list[str]:
    """Arguments for typer: no argument asks for help, and ``--compare`` alone names the preset nearest in size."""
    arguments: list[str] = []
    for index, argument in enumerate(given):
        arguments.append(argument)
        if argument == "--compare":
            following = given[index + 1] if index + 1 < len(given) else ""
            if not _means_preset(following):
                arguments[-1] = f"--compare={api.NEAREST}"
    return arguments or ["--help"]


def _means_preset(word: str) -> bool:
    """True if a word names a preset, or seems to and is misspelt; a file or folder of that name is the model."""
    if word.lower() == api.NEAREST or api.preset_name(word) is not None:
        return True
    if os.path.lexists(word):
        return False
    word = word.split(",")[0]  # a list, which is refused as such
    if not re.fullmatch(r"[\w-]+", word):
        return False
    names = [*api.PRESETS, api.NEAREST.upper()]
    return bool(_PRESET.match(word) or difflib.get_close_matches(word.upper(), names, n=1, cutoff=0.75))


def _report(error: Exception) -> int:
    """Print an error, on stdout too if a program reads it; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        _give_up_stdout()
        return 141
    if "--debug" in sys.argv:
        _show_traceback()
    if isinstance(error, GateError):
        say(f"Failed: {error}")
        return 1
    code, message = 2, str(error)
    if isinstance(error, InputError):
        pass
    elif is_memory_error(error):
        message = "The memory is full; take a smaller model, --context or --calibration-tokens."
    elif isinstance(error, OSError):
        message = _of_system(error)
    elif hasattr(error, "format_message"):  # typer's errors of usage
        message = _usage(error.format_message())
    else:
        if "--debug" not in sys.argv:
            _show_traceback()
        code, message = 70, f"This is a mistake in lieq-edge ({type(error).__name__}); please report it."
    try:
        if "--json" in sys.argv:
            print(json.dumps({"error": message}))
        sys.stdout.flush()
    except OSError:
        _give_up_stdout()
    say(f"Error: {message}")
    return code


def _of_system(error: OSError) -> str:
    """What the operating system complains about."""
    if error.errno == errno.EMFILE:
        return "The system lets this process open too few files; allow more (ulimit -n 256) and try again."
    if isinstance(error, FileNotFoundError) and not error.filename and _is_lost():
        return "The current folder has been removed; change to another one and try again."
    where = f" ({error.filename})" if error.filename else ""
    return f"The system says: {error.strerror or error}{where}; fix that and try again."


def _is_lost() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _usage(message: str) -> str:
    """A message of typer about wrong usage, with the way to the help."""
    sentence = message.replace("Value error, ", "").rstrip(".")
    return f"{sentence} See lieq-edge --help." if sentence.endswith("?") else f"{sentence}; see lieq-edge --help."


def _show_traceback() -> None:
    for line in traceback.format_exc().splitlines():
        say(line)


def _give_up_stdout() -> None:
    """Python flushes stdout once more at its end, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
