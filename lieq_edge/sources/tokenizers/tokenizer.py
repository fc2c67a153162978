"""The tokenizer of a Hugging Face directory as GGUF key-values, beside the original to compare with."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter, SpecialVocab, TokenType

from ...errors import InputError
from ...gguf.container import KeyValue

JSON_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in the text before anything else."""

    text: str
    special: bool

    @property
    def type(self) -> int:
        """CONTROL for markers, USER_DEFINED for others, as llama.cpp's converter decides."""
        marker = self.text.startswith(("<|", "<｜")) and self.text.endswith(("|>", "｜>"))
        return TokenType.CONTROL if self.special or marker else TokenType.USER_DEFINED


@dataclass(frozen=True)
class Pieces:
    """A vocabulary with what runs it.

    Attributes:
        model: ``tokenizer.ggml.model``: ``gpt2`` (byte-level BPE) or ``llama`` (sentencepiece).
        tokens: by id.
        types: ``gguf.TokenType`` by id.
        scores: by id, for ``llama`` only.
        encode: the original tokenizer: ids of a text, nothing added; it finds the added tokens in the text.
        adds_bos: the original puts BOS before a text; None when it does not say.
        special_ids: ids by role (``bos``, ``eos``, ...) that the vocabulary itself knows.
        likely: the pre-tokenizer to try first.
        nearest: the pre-tokenizer that stands for the original's rule where llama.cpp has no exact one, or None.
    """

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None
    encode: Callable[[str], list[int]]
    adds_bos: bool | None
    special_ids: dict[str, int]
    likely: str = "default"
    nearest: str | None = None


def read_pieces(directory: Path, rows: int) -> Pieces:
    """Read the vocabulary of ``directory``.

    Args:
        rows: of the token embedding; unused ones get placeholder tokens.

    Raises:
        InputError: no tokenizer files, damaged ones, or a kind that llama.cpp has not for these families.
    """
    from .bpe import is_byte_level, read_byte_level
    from .sentencepieces import read_json_pieces, read_model_pieces

    document = _read_json(directory / JSON_FILE) if (directory / JSON_FILE).is_file() else None
    if document is not None and is_byte_level(document):
        return read_byte_level(directory / JSON_FILE, document, rows)
    added = added_tokens(directory, document)
    if (directory / SENTENCEPIECE_FILE).is_file():
        return read_model_pieces(directory / SENTENCEPIECE_FILE, document, added, rows)
    if document is not None:
        return read_json_pieces(directory / JSON_FILE, document, added, rows)
    raise InputError(
        f"{directory} holds neither {JSON_FILE} nor {SENTENCEPIECE_FILE}; add the model's tokenizer files to it."
    )


def check_files(directory: Path) -> None:
    """Raise InputError when ``directory`` has no tokenizer."""
    if not any((directory / name).is_file() for name in (JSON_FILE, SENTENCEPIECE_FILE)):
        raise InputError(
            f"{directory} holds neither {JSON_FILE} nor {SENTENCEPIECE_FILE}; add the model's tokenizer files to it."
        )


def key_values(directory: Path, pieces: Pieces) -> list[KeyValue]:
    """All ``tokenizer.*`` key-values except ``tokenizer.ggml.pre``, as llama.cpp's converter writes them.

    Raises:
        InputError: the tokenizer's settings cannot be read.
    """
    writer = GGUFWriter(None, "")
    writer.add_tokenizer_model(pieces.model)
    writer.add_token_list(pieces.tokens)
    if pieces.scores is not None:
        writer.add_token_scores(pieces.scores)
        space = pieces.tokens[pieces.encode("a")[0]].startswith("▁")
        writer.add_add_space_prefix(space)
    writer.add_token_types(pieces.types)
    # It logs what it makes of unusual templates, on which the user can do nothing.
    log = logging.getLogger("gguf.vocab")
    log.disabled = True
    try:
        special = SpecialVocab(directory, load_merges=pieces.model == "gpt2", n_vocab=len(pieces.tokens))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        raise InputError(f"The tokenizer files of {directory} cannot be read ({error}); fetch them again.") from error
    finally:
        log.disabled = False
    for role, token in {**pieces.special_ids, **_first_of_lists(directory)}.items():
        special.special_token_ids.setdefault(role, token)
    if pieces.adds_bos is not None:
        special.add_special_token.setdefault("bos", pieces.adds_bos)
    special.add_to_gguf(writer, quiet=True)
    return writer_values(writer)


def writer_values(writer: GGUFWriter) -> list[KeyValue]:
    """The key-values that a gguf writer has gathered, but for ``general.architecture``, which it adds itself."""
    values = []
    for key, entry in writer.kv_data[0].items():
        kind, value, item_type = entry.type, entry.value, None
        if kind == GGUFValueType.FLOAT32:
            # What a reader of the file sees.
            value = float(np.float32(value))
        if kind == GGUFValueType.ARRAY:
            item_type = int(entry.sub_type or GGUFValueType.get_type(entry.value[0]))
        if key != "general.architecture":
            values.append(KeyValue(key, value, int(kind), item_type))
    return values


def added_tokens(directory: Path, document: dict[str, Any] | None) -> dict[int, AddedToken]:
    """Added tokens by id, from every file that may name them (the last wins)."""
    found: dict[int, AddedToken] = {}
    old = directory / "added_tokens.json"
    if old.is_file():
        found |= {index: AddedToken(text, False) for text, index in _read_json(old).items()}
    settings = directory / CONFIG_FILE
    if settings.is_file():
        for index, entry in (_read_json(settings).get("added_tokens_decoder") or {}).items():
            found[int(index)] = AddedToken(entry["content"], bool(entry.get("special")))
    for entry in (document or {}).get("added_tokens") or []:
        found[entry["id"]] = AddedToken(entry["content"], bool(entry.get("special")))
    return found


def padded(tokens: dict[int, tuple[str, int]], rows: int, what: str) -> tuple[list[str], list[int]]:
    """Tokens and types by id for all ``rows`` of the embedding; ids without a token get a placeholder.

    Raises:
        InputError: the vocabulary has ids beyond the embedding.
    """
    if max(tokens, default=-1) >= rows:
        raise InputError(
            f"{what} has a token with id {max(tokens)} and the token embedding only {rows} rows; "
            "the tokenizer does not belong to these weights."
        )
    entries = [tokens.get(i, (f"[PAD{i}]", int(TokenType.UNUSED))) for i in range(rows)]
    return [text for text, _ in entries], [kind for _, kind in entries]


def _first_of_lists(directory: Path) -> dict[str, int]:
    """Special ids that config.json gives as a list, which gguf's reader passes over: the first of each."""
    config = directory / "config.json"
    if not config.is_file():
        return {}
    document = _read_json(config)
    lists = {role: document.get(f"{role}_token_id") for role in ("bos", "eos", "pad")}
    return {role: ids[0] for role, ids in lists.items() if isinstance(ids, list) and ids}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} does not hold a JSON object; fetch it again.")
    return document
