"""What llama.cpp's converter writes of a model beside its weights: ``general.*`` from the card, the name, and sampling.

Names, license, tags and the like are made of the card's front matter as ``gguf.Metadata.load`` makes them. The card and
``generation_config.json`` are optional and come from strangers: what cannot be read, or is of another kind than it
should be, is left out with a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import gguf
import yaml

from ..errors import InputError
from ..system.terminal import clean
from .checks import sensible
from .generation import GENERATION_FILE, read_generation
from .plain_files import read_plain

CARD_FILE = "README.md"
"""The model card."""

LARGEST_CARD = 1 << 22
"""Bytes of the largest card that is fetched."""

# Limits of a front matter: its bytes, the characters of a text in it, and the items of a list.
_FRONT_BYTES, _LONGEST, _MOST_ITEMS = 1 << 16, 1000, 200
_END = re.compile(rb"^---[ \t]*\r?$", re.MULTILINE)
_NOTHING = ("", "~", "null", "Null", "NULL")
# What most cards have: a note names those of them that are left out.
_USUAL = ("license", "license_name", "license_link", "base_model", "tags", "pipeline_tag", "language")
# The converter's names of fields that a generation_config.json calls otherwise.
_RENAMED = {"sampling_temp": "temperature"}
_LISTS = ("tags", "languages")
_RECORDS = ("base_models", "datasets")


class _TextLoader(yaml.BaseLoader):
    """Every scalar is text, so that ``no`` stays a language; aliases, which make a gigabyte of a line, are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias")
        return super().compose_node(parent, index)


def read_general(
    directory: Path, name: str, parameters: tuple[int, int, int, int]
) -> tuple[gguf.Metadata, tuple[str, ...]]:
    """The general metadata of a model in a Hugging Face directory.

    ``_name_or_path`` of config.json is not asked, other than by the converter: fine-tuned models often have their
    original's.

    Args:
        directory: directory of the model.
        name: the model's name, which says what the card does not.
        parameters: weights of all tensors, of shared ones, of one expert, and the number of experts, as
            ``GGUFWriter.get_total_parameter_count`` gives them.

    Returns:
        The metadata, and notes for the user.
    """
    card, notes = _read_card(directory / CARD_FILE)
    metadata = _of_card(card, name, parameters[0])
    if metadata is None:
        notes.append(f"The model card {directory / CARD_FILE} makes no sense to gguf and is ignored.")
        metadata = _of_card({}, name, parameters[0]) or gguf.Metadata()
    if metadata.size_label is None and parameters[0] > 0:
        metadata.size_label = gguf.size_label(*parameters)
    generation, note = read_generation(directory)
    notes += [note] if note else _add_sampling(metadata, generation or {}, directory / GENERATION_FILE)
    return metadata, tuple(notes)


def _of_card(card: dict[str, Any], name: str, weights: int) -> gguf.Metadata | None:
    """gguf's reading of a card and a name; None where it fails."""
    try:
        with sensible("The fields of the card"):
            metadata = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, {}, Path(name), weights)
    except InputError:
        return None
    for field in fields(metadata):
        value = getattr(metadata, field.name)
        if field.name in _RECORDS and value is not None:
            value = [record for record in value if record] or None
        setattr(metadata, field.name, value if _fits(field.name, value) else None)
    return metadata


def _fits(field: str, value: Any) -> bool:
    """Whether a value is of the kind that GGUF has for a field."""
    if field in _LISTS:
        return value is None or _is_texts(value)
    if field in _RECORDS:
        return value is None or (isinstance(value, list) and all(_is_texts([*record.values()]) for record in value))
    return value is None or isinstance(value, str) or (field == "license" and _is_texts(value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _read_card(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The texts in the front matter of a card, by name, and notes; nothing without one."""

    def ignored(why: str) -> tuple[dict[str, Any], list[str]]:
        return {}, [f"The head of the model card {path} cannot be read ({why}) and is ignored."]

    try:
        content = read_plain(path, _FRONT_BYTES)
    except FileNotFoundError:
        return {}, []
    except InputError as error:
        return ignored(str(error).rpartition(";")[0])
    first, _, rest = content.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    if first.rstrip() != b"---":
        return {}, []
    end = _END.search(rest)
    if end is None:
        return ignored(f"it does not end within {_FRONT_BYTES >> 10} kB")
    try:
        # YAML knows no tabs; the converter replaces them, too.
        text = rest[: end.start()].decode("utf-8").replace("\t", "  ")
        document = yaml.load(text, Loader=_TextLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return ignored((str(error) or type(error).__name__).splitlines()[0][:200])
    if document is None or document == "":
        return {}, []
    if not isinstance(document, dict):
        return ignored("it is no list of names and values")
    card = {str(key): plain for key, value in document.items() if (plain := _plain(value)) is not None}
    odd = [key for key in _USUAL if key in document and key not in card and not _is_nothing(document[key])]
    notes = [f"The model card {path} has an odd value of {', '.join(odd)}, which is left out."] if odd else []
    return card, notes


def _is_nothing(value: Any) -> bool:
    return value in (*_NOTHING, [], {})


def _plain(value: Any) -> Any:
    """A text, or a list of texts and records of texts, without what is nothing or too long; None without a rest."""
    if isinstance(value, str):
        text = clean(value).strip()
        return text if text not in _NOTHING and len(text) <= _LONGEST else None
    if isinstance(value, list):
        items = [_record(item) if isinstance(item, dict) else _plain(item) for item in value[:_MOST_ITEMS]]
        return [item for item in items if isinstance(item, (str, dict)) and item] or None
    return None


def _record(value: Mapping[Any, Any]) -> dict[str, str]:
    texts = {str(key): _plain(item) for key, item in value.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _add_sampling(metadata: gguf.Metadata, generation: Mapping[str, Any], path: Path) -> list[str]:
    """Fill in the sampling values that llama.cpp has keys for; a note names those that are no such values."""
    odd = []
    for field in fields(metadata):
        if not field.name.startswith("sampling_"):
            continue
        key = _RENAMED.get(field.name, field.name.removeprefix("sampling_"))
        given = generation.get(key)
        if given is None:
            continue
        value = _sampling_value(given, str(field.type))
        if value is None:
            odd.append(key)
        setattr(metadata, field.name, value)
    return [f"{path} has an odd value of {', '.join(odd)}, which is left out."] if odd else []


def _sampling_value(given: Any, kind: str) -> str | int | float | None:
    """``given`` as a field of a kind, e.g. ``Optional[int]``, holds it; None where it does not fit."""
    if "str" in kind:
        return _plain(given) if isinstance(given, str) else None
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        return None
    # Larger numbers of either kind are in no 32 bits.
    if not math.isfinite(given) or abs(given) >= 1 << 31:
        return None
    if "int" in kind:
        return int(given) if given == int(given) else None
    return float(given)
