"""Conversations as text, by a chat template of the model (Jinja) or without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]
"""``role`` (system, user or assistant) and ``content``."""

# Templates repeat messages at most a few times; a longer text comes from one that means harm.
_MOST_CHARACTERS = 1 << 20


class Renderer:
    """Renders conversations by a template; one that the template refuses is rendered without it."""

    def __init__(self, template: str | None, *, bos: str = "", eos: str = "") -> None:
        """Compile a template.

        Args:
            template: Jinja source, in the dialect of ``apply_chat_template``; None for models without one.
            bos: text of the token that begins a text.
            eos: text of the token that ends one.
        """
        self._given = {"bos_token": bos, "eos_token": eos}
        self._template: Any = None if template is None else _compile(template)

    def render(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """A conversation as text, and whether the template gave it, so that special tokens in it count as tokens."""
        if self._template is not None:
            for attempt in (messages, _without_system(messages)):
                text = self._by_template(attempt)
                if text is not None:
                    return text, True
        names = {"system": "", "user": "Question: ", "assistant": "Answer: "}
        return "\n\n".join(names[m["role"]] + m["content"] for m in messages) + "\n\n", False

    def _by_template(self, messages: Sequence[Message]) -> str | None:
        try:
            parts: list[str] = []
            size = 0
            for part in self._template.generate(messages=messages, add_generation_prompt=False, **self._given):
                parts.append(part)
                size += len(part)
                if size > _MOST_CHARACTERS:
                    return None
        except Exception:  # templates raise errors of their own, e.g. where they know no system role
            return None
        return "".join(parts)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation with the system's message at the beginning of the user's first one."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]


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
