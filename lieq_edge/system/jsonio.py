"""Save frozen dataclasses as JSON and read them back, checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ..errors import InputError, reason_of
from .files import read_text, write_output

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """The JSON-ready form (dicts, lists, numbers, strings) of a dataclass."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def save_json(value: Any, path: Path, *, replace: bool = True) -> None:
    """Write a dataclass as JSON; the file appears whole or not at all.

    Args:
        value: the dataclass.
        path: the file.
        replace: a file that is there is replaced.

    Raises:
        InputError: ``path`` cannot be an output, or a file is there and not ``replace``.
        OSError: the file cannot be written.
    """
    text = json.dumps(to_json(value), indent=1, sort_keys=True) + "\n"
    write_output(path, text.encode("utf-8"), replace=replace)


def load_json(kind: type[T], path: Path, name: str | None = None) -> T:
    """Read a dataclass of type ``kind`` from ``path``.

    Args:
        kind: the dataclass.
        path: the file.
        name: what the user calls its content, e.g. ``saved measurements``; by default the name of ``kind``.

    Raises:
        InputError: the file is missing, is not JSON, or does not describe a ``kind``.
    """
    name = name or f"saved {kind.__name__}"
    text = read_text(path, f"the {name}")
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        reason = reason_of(first["msg"])
        raise InputError(f"{path} holds no {name}: {where}: {reason}; write it again with lieq-edge.") from error
