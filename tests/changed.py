"""GGUF files with some key-values or tensors changed, which llama.cpp and others have to survive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foreign import key_value
from gguf import GGUFValueType

from lieq_edge.gguf.container import KeyValue, write_container
from lieq_edge.gguf.header import read_header
from lieq_edge.gguf.types import TYPES_BY_ID

_ALIGNMENT = "general.alignment"
_ITEMS = {str: GGUFValueType.STRING, int: GGUFValueType.INT32, float: GGUFValueType.FLOAT32}


def changed_file(path: Path, source: Path, changes: dict[str, Any], renamed: dict[str, str] | None = None) -> Path:
    """Copy the GGUF file ``source`` to ``path``.

    Args:
        path: file to write.
        source: file to copy.
        changes: key-values to add or replace; a value of None removes one.
        renamed: new names of tensors.
    """
    header, data = read_header(source), source.read_bytes()
    no_alignment = changes.get(_ALIGNMENT) == 0
    if no_alignment:  # nobody can write such a file; the number is changed afterwards
        changes = {**changes, _ALIGNMENT: 32}
    metadata = [kv for kv in header.metadata if kv.key not in changes]
    metadata += [_key_value(key, value) for key, value in changes.items() if value is not None]
    architecture = next(kv.value for kv in metadata if kv.key == "general.architecture")
    names = renamed or {}
    entries = [(names.get(t.name, t.name), t.shape, TYPES_BY_ID[t.type]) for t in header.tensors]
    write_container(
        path, architecture, metadata, entries, (data[t.offset : t.offset + t.nbytes] for t in header.tensors)
    )
    if no_alignment:
        content = bytearray(path.read_bytes())
        place = content.index(_ALIGNMENT.encode()) + len(_ALIGNMENT) + 4
        content[place : place + 4] = bytes(4)
        path.write_bytes(content)
    return path


def _key_value(key: str, value: Any) -> KeyValue:
    if isinstance(value, list):
        return KeyValue(key, value, GGUFValueType.ARRAY, _ITEMS[type(value[0])])
    return key_value(key, value)
