"""Which tokens start, end and pad a text: asked of the tokenizer, and of the model where the tokenizer is silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..generation import read_generation
from ..plain_files import is_plain_file, read_json
from .original import ROLES
from .pieces import Pieces

_MODEL_FILE = "config.json"
_TOKENIZER_FILE = "tokenizer_config.json"
_NAMING = ("added_tokens.json", "special_tokens_map.json", "tokenizer.json", _TOKENIZER_FILE)


@dataclass(frozen=True)
class Configured:
    """What the JSON files of a directory say about special tokens.

    Attributes:
        tokenizer: ``tokenizer_config.json``.
        model: ``config.json``; the text part's where it says nothing itself.
        generation: ``generation_config.json``; None without one that can be read.
        directory: the directory.
        beside_json: the directory has a ``tokenizer.json``.
    """

    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None
    directory: Path = Path()
    beside_json: bool = False

    def mentions(self, token: str) -> bool:
        """Whether a file names ``token``; classes of transformers have tokens by default that none names."""
        paths = (self.directory / name for name in _NAMING)
        return any(_holds(read_json(path), token) for path in paths if is_plain_file(path))


@dataclass(frozen=True)
class TextLimits:
    """Tokens that llama.cpp puts around a text.

    Attributes:
        adds_bos: BOS before it.
        adds_eos: EOS after it.
        notes: sentences for the user.
    """

    adds_bos: bool
    adds_eos: bool
    notes: tuple[str, ...]


def configured(directory: Path) -> Configured:
    """Read the JSON files of ``directory``.

    Raises:
        InputError: one that the model needs is damaged.
    """

    def read(name: str) -> dict[str, Any]:
        return read_json(directory / name) if is_plain_file(directory / name) else {}

    model = read(_MODEL_FILE)
    inner = model.get("text_config")
    return Configured(
        read(_TOKENIZER_FILE),
        {**(inner if isinstance(inner, dict) else {}), **{k: v for k, v in model.items() if v is not None}},
        read_generation(directory)[0],
        directory,
        is_plain_file(directory / "tokenizer.json"),
    )


def special_ids(pieces: Pieces, settings: Configured) -> tuple[dict[str, int], tuple[int, ...]]:
    """Ids by role in the order in which they are written, and all ids that end a text by any of the files.

    Args:
        pieces: the vocabulary, with the ids that it knows itself.
        settings: what the files say.
    """
    rows = len(pieces.tokens)
    generation = settings.generation or {}
    roles = {role: index for role, index in pieces.original.roles.items() if index < rows}
    if pieces.model == "gpt2":
        roles.pop("unk", None)  # there every byte is a token
    prefix = pieces.original.prefix
    if "bos" not in roles and len(prefix) == 1 and prefix[0] < rows:
        roles = {"bos": prefix[0], **roles}
    for role in ROLES:
        ids = _ids(settings.model, role, rows) or _ids(generation, role, rows)
        if role not in roles and ids:
            roles[role] = ids[0]
    roles |= {role: index for role, index in pieces.special_ids.items() if role not in roles}
    ends = [roles["eos"]] if "eos" in roles else []
    ends += _ids(generation, "eos", rows) + _ids(settings.model, "eos", rows)
    return roles, tuple(dict.fromkeys(ends))


def reply_ends(pieces: Pieces, settings: Configured) -> tuple[int, ...]:
    """Ids at which transformers' ``generate`` ends a reply: it asks config.json only where there is no
    generation_config.json."""
    rows = len(pieces.tokens)
    chosen = settings.model if settings.generation is None else settings.generation
    return tuple(dict.fromkeys(_ids(chosen, "eos", rows)))


def text_limits(pieces: Pieces) -> TextLimits:
    """Which of the tokens that transformers puts around a text llama.cpp can put there too."""
    original, tokens = pieces.original, pieces.tokens
    prefix, suffix = original.prefix, original.suffix
    adds_bos = bool(prefix) and prefix[0] == pieces.special_ids.get("bos")
    adds_eos = bool(suffix) and suffix[-1] == pieces.special_ids.get("eos")
    notes = []
    for place, ids, expressed in (("before", prefix, adds_bos), ("after", suffix, adds_eos)):
        if len(ids) > expressed:
            names = " ".join(repr(tokens[index]) if index < len(tokens) else str(index) for index in ids)
            notes.append(
                f"The tokenizer {original.path} puts {names} {place} a text, and llama.cpp can put "
                f"{'BOS' if place == 'before' else 'EOS'} there only; conversations are not affected."
            )
    if adds_eos:
        notes.append(
            f"The tokenizer {original.path} puts EOS after every text, as the written file says; llama-perplexity and "
            "llama-imatrix stop with an error on such a file."
        )
    return TextLimits(adds_bos, adds_eos, tuple(notes))


def ignored_settings(pieces: Pieces, settings: Configured) -> tuple[str, ...]:
    """A note for each setting of ``tokenizer_config.json`` that transformers ignores beside a ``tokenizer.json``."""
    notes = []
    limits = text_limits(pieces)
    for role, adds in (("bos", limits.adds_bos), ("eos", limits.adds_eos)):
        said = settings.tokenizer.get(f"add_{role}_token")
        if settings.beside_json and isinstance(said, bool) and said is not adds:
            notes.append(
                f"{settings.directory / _TOKENIZER_FILE} says add_{role}_token = {str(said).lower()}, which "
                f"transformers ignores beside a tokenizer.json; the written file says {str(adds).lower()}, as the "
                "tokenizer does."
            )
    return tuple(notes)


def _ids(document: Mapping[str, Any], role: str, rows: int) -> list[int]:
    """The ids of a role in a configuration that are rows of the embedding."""
    value = document.get(f"{role}_token_id")
    values = value if isinstance(value, list) else [value]
    return [index for index in values if type(index) is int and 0 <= index < rows]


def _holds(document: Any, text: str) -> bool:
    """Whether ``text`` is a key or a value anywhere in a JSON document but in its vocabulary."""
    parts = [document]
    while parts:
        part = parts.pop()
        if part == text:
            return True
        if isinstance(part, dict):
            if text in part:
                return True
            parts += [value for key, value in part.items() if key != "vocab"]
        elif isinstance(part, list) and len(part) < 10000:
            parts += part
    return False
