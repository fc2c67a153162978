"""The chat template of a GGUF file, rendered in the process beside this one: a template is a program of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import Keys

from ..gguf.header import Header
from ..gguf.splits import read_model
from .child import shared
from .limits import text_seconds

Messages = Sequence[dict[str, str]]
"""Messages of a conversation: ``role`` (system, user, assistant) and ``content`` of each."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template with what it may refer to.

    Attributes:
        path: file that it is in.
        text: jinja2 source.
        bos: text of the token that starts a text, may be empty.
        eos: text of the token that ends one, may be empty.
    """

    path: Path
    text: str
    bos: str
    eos: str

    def render(self, messages: Messages) -> str:
        """The text of a conversation up to where the answer begins.

        A system prompt goes before the first message of the user where the template has no such role.

        Raises:
            InputError: the template is damaged, refuses the messages, or does not come to an end.
        """
        child = shared()
        child.allow_memory(self.path)
        label = str(self.path)
        plain = [{key: encodable(value) for key, value in message.items()} for message in messages]
        seconds = text_seconds(sum(len(message["content"]) for message in plain))
        text: str = child.call("render", self.text, self.bos, self.eos, plain, label, label=label, seconds=seconds)
        return encodable(text)


def chat_template(path: Path) -> ChatTemplate | None:
    """The default chat template of the file ``path``; None where it has none.

    Raises:
        InputError: the file is missing, damaged or not a GGUF file.
    """
    header = read_model(path).header
    text = header.get(Keys.Tokenizer.CHAT_TEMPLATE)
    if not isinstance(text, str) or not text.strip():
        return None
    bos, eos = (token_text(header, header.get(key)) for key in (Keys.Tokenizer.BOS_ID, Keys.Tokenizer.EOS_ID))
    return ChatTemplate(path, encodable(text), bos, eos)


def token_text(header: Header | Mapping[str, Any], token: Any) -> str:
    """The text of a token as the vocabulary has it; empty where there is no such token."""
    tokens = header.get(Keys.Tokenizer.LIST)
    if not isinstance(tokens, list) or not isinstance(token, int) or not 0 <= token < len(tokens):
        return ""
    return encodable(tokens[token]) if isinstance(tokens[token], str) else ""


def encodable(text: str) -> str:
    """``text`` with a question mark for each character that UTF-8 does not have."""
    return text.encode("utf-8", "replace").decode("utf-8")
