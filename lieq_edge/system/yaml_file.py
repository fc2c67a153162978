"""Settings in YAML files of users: text, lists and mappings only, each with its line in the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .files import read_text

_LARGEST = 1 << 16


@dataclass(frozen=True)
class YamlFile:
    """A mapping that was read from a file.

    Attributes:
        path: the file.
        values: values by name; every scalar is a text.
        lines: line of each name, from 1.
        item_lines: lines of the items of each list, by its name.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    item_lines: dict[str, tuple[int, ...]]


def read_yaml(path: Path, noun: str) -> YamlFile:
    """Read a mapping; no tag, date or number in it is interpreted.

    Args:
        path: the file.
        noun: what messages call it, e.g. ``recipe``.

    Raises:
        InputError: the file is missing, too large, not YAML, not a mapping, or has a name twice.
    """
    text = read_text(path, f"the {noun}")
    if len(text) > _LARGEST:
        raise InputError(f"The {noun} {path} is larger than {_LARGEST // 1024} kB; it is not a {noun}.")
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        document = yaml.load(text, Loader=yaml.BaseLoader)  # reads text, lists and mappings only
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"The {noun} {path} is not YAML: {reason}.") from error
    if not isinstance(document, dict) or not isinstance(node, yaml.MappingNode):
        raise InputError(f"The {noun} {path} must hold settings, one `name: value` a line.")
    names = [key.value for key, _ in node.value]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"The {noun} {path} must hold settings, one `name: value` a line.")
    for name in document:
        if names.count(name) > 1:
            raise InputError(f"The {noun} {path} gives {name} twice; leave one out.")
    return YamlFile(
        path,
        document,
        {key.value: key.start_mark.line + 1 for key, _ in node.value},
        {
            key.value: tuple(item.start_mark.line + 1 for item in value.value)
            for key, value in node.value
            if isinstance(value, yaml.SequenceNode)
        },
    )
