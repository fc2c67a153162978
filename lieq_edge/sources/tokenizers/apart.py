"""Settle a tokenizer in a process of its own, which may die, hang or fill the memory: its files come from strangers.

transformers, tokenizers, sentencepiece and jinja2 load and run what the files say: normalizers that make a letter a
gigabyte, patterns, templates. The process lives for one model; nothing of the libraries is imported here.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ...store import Entry
from ...system import child
from ...system.child import End
from ...system.memory import most_beside
from ...system.temporary import temporary_folder
from ..plain_files import is_plain_file
from .original import FILES

# Of computing. Tokenizers of 10 kB, 3.5 MB and 17 MB take 0.1, 0.7 and 3.1 s on a server's core.
_SECONDS, _SECONDS_BY_MEGABYTE = 5.0, 10.0
# By the clock, for a loaded machine, and for llama.cpp, which has limits of its own in there.
_WAITING_SECONDS, _WAITING = 300.0, 5.0
# The same take 1, 70 and 390 MB beside the libraries.
_BYTES, _BYTES_BY_BYTE = 3 << 28, 40

_KNOWN = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""Files that a user knows a tokenizer by; the first that is there counts."""


class Reader(child.Child):
    """The process."""

    name = "transformers"

    def __init__(self) -> None:
        environment = {
            "HF_HUB_OFFLINE": "1",
            "RUST_BACKTRACE": "0",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
            "TRANSFORMERS_VERBOSITY": "critical",
        }
        super().__init__("lieq_edge.sources.tokenizers.serve", environment=environment)

    def explain(self, end: End) -> str:
        advice = "it is probably damaged: fetch it again, or choose another model."
        if end.cause == "start":
            return f"The process that reads tokenizers could not be started ({end.how}); install transformers again."
        if end.cause == "memory":
            return self.explain_memory(end.label)
        if end.cause == "time":
            return (
                f"{end.label} is a tokenizer that transformers had not loaded and tried, with its chat template, after "
                f"{end.limit.computing:.0f} s of computing; {advice}"
            )
        return f"transformers ended on the tokenizer {end.label} ({end.how}); {advice}"

    def explain_memory(self, label: str) -> str:
        return (
            f"{label} is a tokenizer that asks for more memory than there is for one; it is probably damaged: fetch it "
            "again, or choose another model."
        )


_reader: Reader | None = None
_reading = threading.Lock()


def settle_apart(directory: Path, rows: int, architecture: str, label: str, *, name: str = "") -> Entry:
    """Read the tokenizer of a directory and let llama.cpp try it (``trial.settle``).

    Args:
        directory: the model's.
        rows: number of rows of the token embedding.
        architecture: GGUF architecture.
        label: the model's name, for messages.
        name: the model's name in the file, if it has one.

    Returns:
        The entry of which ``trial.of_entry`` makes a trial.

    Raises:
        InputError: it cannot be read, llama.cpp has no tokenizer like it, or it asks for too much time or memory.
    """
    size = sum((directory / name).stat().st_size for name in FILES if is_plain_file(directory / name))
    computing = _SECONDS + _SECONDS_BY_MEGABYTE * size / 1e6
    # One at a time: the memory of the process is limited for one model, and it is ended with that.
    with _reading, temporary_folder() as folder:
        reader = _shared()
        try:
            reader.limit_memory(min(most_beside(), _BYTES + _BYTES_BY_BYTE * size))
            arguments = os.getcwd(), str(directory), rows, architecture, label, name, str(folder)
            record = reader.call(
                "settle",
                *arguments,
                label=str(_known_file(directory)),
                seconds=_WAITING_SECONDS + _WAITING * computing,
                computing=computing,
            )
        finally:
            _end(reader)
    return Entry(record=record)


def _shared() -> Reader:
    global _reader
    if _reader is None or not _reader.alive:
        _reader = Reader()
    return _reader


def _end(reader: Reader) -> None:
    """It would only take memory from now on."""
    reader.kill()


def _known_file(directory: Path) -> Path:
    return next((directory / name for name in _KNOWN if is_plain_file(directory / name)), directory)
