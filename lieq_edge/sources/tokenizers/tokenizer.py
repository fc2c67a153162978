"""The tokenizer of a Hugging Face directory as GGUF key-values, beside the original to compare with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType, GGUFWriter

from ...errors import InputError
from ...gguf.container import KeyValue
from ...system.files import temporary_folder
from ..plain_files import is_plain_file, read_json
from .bpe import is_byte_level, read_byte_level
from .original import Original, load_original
from .pieces import Pieces
from .roles import Configured, configured, ignored_settings, reply_ends, special_ids, text_limits
from .sentencepieces import read_sentencepieces
from .spm_model import declared_tokens, read_spm, write_json

JSON_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
PAIR_FILES = ("vocab.json", "merges.txt")
TEMPLATE_FILE = "chat_template.json"

_BESIDE = (
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "special_tokens_map.json",
    CONFIG_FILE,
)
"""Files that transformers reads beside a vocabulary."""

_TEMPLATES = "additional_chat_templates"

_OTHER_FORMS = ("tekken.json", "*.tiktoken", "tiktoken.model", "tokenizer.model.v*", "vocab.txt")
"""Vocabularies of Mistral, of tiktoken, and of WordPiece."""


def read_pieces(directory: Path, rows: int) -> Pieces:
    """Read the vocabulary of a directory.

    Args:
        directory: the model's.
        rows: number of rows of the token embedding; unused ones get placeholder tokens.

    Raises:
        InputError: there are no tokenizer files, damaged ones, or ones that llama.cpp cannot run.
    """
    check_files(directory)
    spm = None
    if is_plain_file(directory / SENTENCEPIECE_FILE):
        spm = read_spm(directory / SENTENCEPIECE_FILE)
    settings = configured(directory)
    try:
        if is_plain_file(directory / JSON_FILE):
            original = load_original(directory, directory / JSON_FILE)
        elif spm is not None:
            original = _load_converted(directory)
        else:
            original = load_original(directory, directory / PAIR_FILES[0])
    except InputError as error:
        if "custom code" not in str(error):
            raise
        raise InputError(
            f"The tokenizer of {directory} is a class of its own ({settings.tokenizer.get('tokenizer_class')}), whose "
            "code is not run; choose another model, or give a GGUF file of this one."
        ) from error
    added, notes = _added(original, settings, rows)
    if is_byte_level(original.document):
        pieces = read_byte_level(original, added, rows)
    else:
        pieces = read_sentencepieces(original, spm, added, rows)
        if spm is not None and not is_plain_file(directory / JSON_FILE):
            pieces = replace(pieces, reference=spm.encode)
    ids, ends = special_ids(pieces, settings)
    pieces = replace(pieces, special_ids=ids, ends=ends, reply_ends=reply_ends(pieces, settings))
    return replace(pieces, notes=(*notes, *ignored_settings(pieces, settings)))


def check_files(directory: Path) -> None:
    """Refuse a directory without a tokenizer, and one whose tokenizer files could block whoever opens them.

    Raises:
        InputError: no tokenizer file is there, or one is not a regular file.
    """
    for path in (*(directory / name for name in _BESIDE), *(directory / _TEMPLATES).glob("*.jinja")):
        is_plain_file(path)
    names = (JSON_FILE, SENTENCEPIECE_FILE)
    if any(is_plain_file(directory / name) for name in names):
        return
    if not all(is_plain_file(directory / name) for name in PAIR_FILES):
        for pattern in _OTHER_FORMS:
            for path in sorted(directory.glob(pattern)):
                raise InputError(
                    f"{directory} holds its tokenizer as {path.name} only, a form that is not read; add the "
                    f"{JSON_FILE} that transformers makes of it."
                )
        raise InputError(
            f"{directory} holds neither {JSON_FILE} nor {SENTENCEPIECE_FILE}; add the model's tokenizer files to it."
        )


def key_values(directory: Path, pieces: Pieces) -> list[KeyValue]:
    """All ``tokenizer.*`` key-values except ``tokenizer.ggml.pre``, in the order of llama.cpp's converter.

    Args:
        directory: the model's.
        pieces: its vocabulary.

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
    if pieces.merges:
        writer.add_token_merges(pieces.merges)
    for role, index in pieces.special_ids.items():
        getattr(writer, f"add_{role}_token_id")(index)
    limits = text_limits(pieces)
    writer.add_add_bos_token(limits.adds_bos)
    if limits.adds_eos:
        writer.add_add_eos_token(True)
    if pieces.original.separates:
        writer.add_add_sep_token(False)
    templates = _templates(directory, pieces.original)
    if list(templates) == ["default"]:
        writer.add_chat_template(templates["default"])
    elif templates:
        writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])
    return writer_values(writer)


def writer_values(writer: GGUFWriter) -> list[KeyValue]:
    """The key-values that a gguf writer has gathered, but for ``general.architecture``, which it adds itself."""
    values = []
    for key, entry in writer.kv_data[0].items():
        kind, value, item_type = entry.type, entry.value, None
        if kind == GGUFValueType.FLOAT32:
            # What a reader of the file sees.
            with np.errstate(over="raise"):
                value = float(np.float32(value))
        if kind == GGUFValueType.ARRAY:
            item_type = int(entry.sub_type or GGUFValueType.get_type(entry.value[0]))
        if key != "general.architecture":
            values.append(KeyValue(key, value, int(kind), item_type))
    return values


def _load_converted(directory: Path) -> Original:
    """The tokenizer of a directory that only has ``tokenizer.model``, through the JSON form of it."""
    spm = read_spm(directory / SENTENCEPIECE_FILE)
    if not spm.bpe:
        raise InputError(
            f"{directory / SENTENCEPIECE_FILE} is a sentencepiece model of the unigram kind, and llama.cpp runs BPE "
            "ones only for these models; choose another model."
        )
    settings = read_json(directory / CONFIG_FILE) if is_plain_file(directory / CONFIG_FILE) else {}
    with temporary_folder() as folder:
        for beside in _BESIDE:
            if is_plain_file(directory / beside):
                shutil.copyfile(directory / beside, folder / beside)
        if (directory / _TEMPLATES).is_dir():
            shutil.copytree(directory / _TEMPLATES, folder / _TEMPLATES)
        if decoder := settings.get("added_tokens_decoder"):
            # Beside it transformers does not read the added tokens of a tokenizer.json.
            declared = {str(entry.pop("id")): entry for entry in declared_tokens(spm)}
            complete = {**settings, "added_tokens_decoder": declared | decoder}
            (folder / CONFIG_FILE).write_text(json.dumps(complete), encoding="utf-8")
        write_json(spm, folder / JSON_FILE, settings)
        return load_original(folder, directory / SENTENCEPIECE_FILE)


def _added(original: Original, settings: Configured, rows: int) -> tuple[dict[int, tuple[str, bool]], list[str]]:
    """Added tokens that have a row in the embedding, by id, and notes about those that have none and need none."""
    added, notes = {}, []
    for entry in original.document.get("added_tokens") or []:
        index, text, special = int(entry["id"]), str(entry["content"]), bool(entry.get("special"))
        if index >= rows and _needs_no_row(original, settings, index, text):
            roles = [role for role, place in original.roles.items() if place == index]
            for role in roles:
                del original.roles[role]
            if settings.mentions(text):
                notes.append(
                    f"The padding token {text} of {original.path} has the id {index} beyond the {rows} rows of the "
                    "token embedding; it is left out, because generation never uses it."
                )
            continue
        added[index] = (text, special)
    return added, notes


def _needs_no_row(original: Original, settings: Configured, index: int, text: str) -> bool:
    """True for padding, and for tokens that a class of transformers has by default and no file names."""
    return index == original.roles.get("pad") or "pad" in text.lower() or not settings.mentions(text)


def _templates(directory: Path, original: Original) -> dict[str, str]:
    """Chat templates by name; a processor's (``chat_template.json``) where the tokenizer has none."""
    if original.templates or not is_plain_file(directory / TEMPLATE_FILE):
        return original.templates
    template: Any = read_json(directory / TEMPLATE_FILE).get("chat_template")
    return {"default": template} if isinstance(template, str) else {}
