"""Conversations as text, by a chat template (Jinja) or without one; a template runs in the process of llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.child import StoppedError
from ..system.memory import most_beside
from ..system.progress import log
from .child import shared
from .limits import text_seconds

Message = Mapping[str, Any]
"""``role`` (system, user or assistant) and ``content``."""

# Texts of all conversations take a megabyte.
_MOST_BYTES = 1 << 28
# Templates repeat messages at most a few times; a longer text comes from one that means harm.
_MOST_CHARACTERS = 1 << 20


def render_conversations(
    conversations: Sequence[Sequence[Message]], template: str | None, *, bos: str, eos: str, label: str
) -> list[tuple[str, bool]]:
    """The text of each conversation, and whether the template gave it, so that special tokens in it count as tokens.

    Args:
        conversations: messages of each.
        template: Jinja source, in the dialect of ``apply_chat_template``; None for models without one.
        bos: text of the token that begins a text.
        eos: text of the token that ends one.
        label: name of the model, for messages.
    """
    texts: list[str | None] = [None] * len(conversations)
    if template is not None:
        plain = [[dict(message) for message in messages] for messages in conversations]
        size = sum(len(message["content"]) for messages in plain for message in messages)
        child = shared()
        child.limit_memory(min(most_beside(), _MOST_BYTES))
        try:
            texts = child.call("render_all", template, bos, eos, plain, label=label, seconds=text_seconds(size))
        except StoppedError:
            raise
        except InputError as error:
            log(f"Note: the chat template of {label} is of no use for the calibration text: {error}")
        finally:
            if child.alive:
                child.allow_memory(Path(label))
    pairs = zip(conversations, texts, strict=True)
    return [(_plain(messages), False) if text is None else (text, True) for messages, text in pairs]


def _plain(messages: Sequence[Message]) -> str:
    names = {"system": "", "user": "Question: ", "assistant": "Answer: "}
    return "\n\n".join(names[m["role"]] + m["content"] for m in messages) + "\n\n"


def render_all(
    worker: object, template: str, bos: str, eos: str, conversations: Sequence[Sequence[Message]]
) -> list[str | None]:
    """The worker's part of ``render_conversations``."""
    renderer = Renderer(template, bos=bos, eos=eos)
    return [renderer.render(messages) for messages in conversations]


FUNCTIONS: dict[str, Callable[..., Any]] = {"render_all": render_all}
"""Functions that the parent may call, by name."""


class Renderer:
    """Renders conversations by a template."""

    def __init__(self, template: str | None, *, bos: str = "", eos: str = "") -> None:
        """Compile a template.

        Args:
            template: Jinja source, in the dialect of ``apply_chat_template``; None for models without one.
            bos: text of the token that begins a text.
            eos: text of the token that ends one.
        """
        self._given = {"bos_token": bos, "eos_token": eos}
        self._template: Any = None if template is None else _compile(template)

    def render(self, messages: Sequence[Message]) -> str | None:
        """A conversation as text; None where there is no template, or it refuses the conversation."""
        if self._template is not None:
            for attempt in (messages, without_system(messages)):
                text = self._by_template(attempt)
                if text is not None:
                    return text
        return None

    def _by_template(self, messages: Sequence[Message]) -> str | None:
        try:
            parts: list[str] = []
            size = 0
            for part in self._template.generate(messages=messages, add_generation_prompt=False, **self._given):
                parts.append(part)
                size += len(part)
                if size > _MOST_CHARACTERS:
                    return None
        except MemoryError:
            raise
        except Exception:  # templates raise errors of their own, e.g. where they know no system role
            return None
        return "".join(parts)


def without_system(messages: Sequence[Message]) -> Sequence[Message]:
    """The system prompt before the first message of the user, for templates that refuse the role (Gemma's)."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    first, second = messages[:2]
    return [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *messages[2:]]


def _compile(template: str) -> Any:
    """The compiled template; None where Jinja cannot read it."""
    import json
    from datetime import datetime

    from jinja2 import TemplateError, ext
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """``{% generation %}``, by which templates mark what an assistant wrote, for training."""

        tags = {"generation"}  # noqa: RUF012  as Jinja declares it

        def parse(self, parser: Parser) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols, Generation]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = refuse
    # A fixed day, because the same inputs give the same file.
    environment.globals["strftime_now"] = datetime(2026, 1, 1).strftime
    try:
        return environment.from_string(template)
    except (TemplateError, RecursionError):
        return None
