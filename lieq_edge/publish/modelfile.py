"""An Ollama ``Modelfile``. It has no TEMPLATE: Ollama reads the file's own, and its language is another."""

from __future__ import annotations

import os
from pathlib import Path

from gguf import Keys, TokenType

from ..errors import InputError
from ..llama.template import token_text
from ..llama.vocabulary import Vocabulary
from ..system.files import user_path
from .described import Described

# Ollama's parser knows no escapes within quotes.
_UNQUOTABLE = ('"', "\n", "\r")


def modelfile(one: Described, place: Path) -> str:
    """The text of a Modelfile: where the file is, and the tokens that end an answer.

    Args:
        one: the file.
        place: path that the Modelfile is going to have; Ollama looks for the file from its folder.

    Raises:
        InputError: the file has several parts, a name that Ollama cannot read, or a damaged tokenizer.
    """
    if len(one.model.paths) > 1:
        raise InputError(
            f"{one.path} is in {len(one.model.paths)} parts, which Ollama does not import; merge them with "
            "`llama-gguf-split --merge`, or pass --no-modelfile."
        )
    relative = os.path.relpath(one.path.absolute(), user_path(place).absolute().parent).replace(os.sep, "/")
    if not relative.startswith("../"):
        relative = f"./{relative}"
    if any(character in relative for character in _UNQUOTABLE):
        raise InputError(f"The path {relative} cannot be written in a Modelfile; rename it, or pass --no-modelfile.")
    source = relative if " " not in relative else f'"{relative}"'
    lines = [f"FROM {source}", *(f'PARAMETER stop "{text}"' for text in end_tokens(one))]
    return "\n".join(lines) + "\n"


def end_tokens(one: Described) -> list[str]:
    """Texts of the special tokens at which llama.cpp ends an answer, those that a Modelfile can hold."""
    header = one.model.header
    types = header.get(Keys.Tokenizer.TOKEN_TYPE)
    if one.report.tokenizer is None or not isinstance(types, list):
        return []
    vocabulary = Vocabulary(one.path)
    special = (token for token, kind in enumerate(types) if kind == TokenType.CONTROL)
    texts = [token_text(header, token) for token in special if vocabulary.ends(token)]
    return [text for text in texts if text.isprintable() and text.strip() and '"' not in text]
